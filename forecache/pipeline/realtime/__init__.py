"""What a user declares of a model that is asked in real time."""
