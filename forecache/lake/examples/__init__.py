"""The training set of a real-time model: past requests with point-in-time features, transformed as in serving."""
