"""Delta tables: reading, writing data files, and the one committer."""
