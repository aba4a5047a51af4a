"""A small pipeline with a helper module, all of whose stages run in seconds; a test edits a copy of it."""
