"""Maintenance of the lake's tables."""
