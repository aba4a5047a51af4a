"""A project whose models are not trained in it."""
