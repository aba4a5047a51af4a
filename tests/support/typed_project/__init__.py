"""A project whose features are of every type."""
