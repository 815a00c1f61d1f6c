"""A row, or a grid of it, from clips to run records."""
