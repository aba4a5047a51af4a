"""A project with a stream whose days become the landing files of its source."""
