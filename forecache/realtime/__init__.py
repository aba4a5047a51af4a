"""The real-time path: a request is answered by a model with features looked up online, within a deadline."""
