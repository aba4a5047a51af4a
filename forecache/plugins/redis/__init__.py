"""Versions in Redis or Redis Cluster."""
