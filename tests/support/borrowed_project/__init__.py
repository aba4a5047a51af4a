"""A project that owns neither its table nor its model."""
