"""Whose names a file has, which model they are of, and which expert: tables, and what is told from them."""
