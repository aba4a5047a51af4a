"""A Forecache project."""
