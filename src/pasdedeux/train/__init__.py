"""How the built-in pair is made and judged."""
