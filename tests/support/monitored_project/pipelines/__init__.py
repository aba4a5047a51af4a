"""One pipeline a module."""
