"""Pipelines over made-up rows."""
