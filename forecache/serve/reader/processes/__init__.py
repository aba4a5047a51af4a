"""The reader's processes, their shared memory, and their metrics."""
