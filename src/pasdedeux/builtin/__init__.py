"""The built-in pair's weights and model card."""
