"""Files to lazy tensors and back: safetensors, shards, GGUF, torch's zip files."""
