"""One step of a stream: turns a batch of messages into rows and tiles, for both engines and for a recomputation."""
