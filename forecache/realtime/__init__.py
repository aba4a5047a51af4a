"""The real-time path: answer a request by a model with features looked up online, within a deadline."""
