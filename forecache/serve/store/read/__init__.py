"""Reading a version: a snapshot of its segments, and from a key to its entry."""
