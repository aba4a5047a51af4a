"""The request log of real-time models: what was answered, from which features, versions and rung, and how fast."""
