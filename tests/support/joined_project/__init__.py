"""A project with a pipeline that joins views, and one that reads a view of it as it is."""
