"""Days of a source, taken from the table of a stream."""
