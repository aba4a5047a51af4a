"""Dagster resources: each builds one core object of the framework from the settings."""
