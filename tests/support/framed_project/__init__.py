"""A project whose features are a function on Spark's frames, and whose model is a rule."""
