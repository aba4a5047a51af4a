"""Training sets of real-time models: past requests with point-in-time features, transformed as in serving."""
