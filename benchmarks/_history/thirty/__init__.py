"""A project of thirty pipelines: the demo's two, and the first of them under other names."""
