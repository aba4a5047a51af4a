"""Keeping streams running."""
