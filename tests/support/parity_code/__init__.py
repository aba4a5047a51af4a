"""A transform that tells apart whatever could differ between two places that call it, and a model for each feature."""
