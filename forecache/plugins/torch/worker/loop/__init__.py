"""The training loop and the user's own training function."""
