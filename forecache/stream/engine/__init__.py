"""Code of both engines: the run of a stream, its figures, its lineage, and background threads."""
