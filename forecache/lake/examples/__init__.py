"""The training set of a real-time model: past requests, with features as they were known, transformed as when asked."""
