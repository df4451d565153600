"""What each family of denoisers takes, drawn from a character and a performance."""
