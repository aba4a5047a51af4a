"""Its pipelines."""
