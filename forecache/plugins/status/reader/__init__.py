"""The status page of the reader at `/status`: counts of all workers, the last ten minutes, and problems."""
