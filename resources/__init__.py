"""Dagster resources: each builds one core object of the engine from the settings."""
