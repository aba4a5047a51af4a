"""Publishing: a partition of a table becomes the current version."""
