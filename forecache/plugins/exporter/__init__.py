"""Metrics of the batch half for Prometheus."""
