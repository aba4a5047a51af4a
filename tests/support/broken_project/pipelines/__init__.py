"""A project whose pipelines fail while training."""
