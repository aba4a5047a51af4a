"""What to declare of a real-time model, from what its requests cost and how often they repeat."""
