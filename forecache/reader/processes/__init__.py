"""The reader's processes, the memory they share, and their metrics."""
