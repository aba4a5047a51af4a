"""Publishing: a partition of the prediction table becomes the current version."""
