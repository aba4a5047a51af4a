"""Releases: a model version, its request transform and the contracts of its features, rolled out as one unit."""
