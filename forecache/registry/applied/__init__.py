"""Models that are applied as they are declared: which version scores now, whether it may, and how it is run."""
