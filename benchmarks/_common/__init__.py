"""What the benchmarks share: the circumstances of a section, the rows of a table, results on disk."""
