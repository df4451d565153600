"""Where weights live, and when they move."""
