"""Prediction drift: statistics, findings and the sampled page."""
