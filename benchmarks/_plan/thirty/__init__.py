"""A project of thirty pipelines."""
