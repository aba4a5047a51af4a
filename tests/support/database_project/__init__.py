"""A project whose source is a database."""
