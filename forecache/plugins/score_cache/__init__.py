"""The cache of scores for repeated requests to a real-time model."""
