"""Days of a source, extracted from a database by SQL."""
