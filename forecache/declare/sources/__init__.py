"""Sources of rows, and the meaning of time in them."""
