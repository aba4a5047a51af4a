"""A project with a stream of payments."""
