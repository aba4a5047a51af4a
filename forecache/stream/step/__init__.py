"""A batch of events to the rows of the stream: the same code for every engine and for a recomputation."""
