"""The status page of the reader: what all workers count, its last ten minutes, and what is not well, at `/status`."""
