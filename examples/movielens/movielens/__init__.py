"""Films for the users of MovieLens 100k."""
