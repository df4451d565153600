"""Files on disk to models under our names, checked."""
