"""Pipelines of the tests."""
