"""A project whose pipelines try the training loop: a slow evaluation, a training function of its own."""
