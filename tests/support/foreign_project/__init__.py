"""Pipelines that others might declare, each one file."""
