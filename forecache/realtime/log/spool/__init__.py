"""The spool of a request log: what was answered, on disk, until it is in the lake."""
