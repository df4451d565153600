"""Weights stored in fewer bits than they are computed in: 8-bit floats with scales, GGUF blocks."""
