"""`make bench-stream`: what is measured of streams, from an event to its answer and through every kill."""
