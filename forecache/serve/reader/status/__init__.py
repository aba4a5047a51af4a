"""The status of the reader: counts of all workers, the last ten minutes, and problems."""
