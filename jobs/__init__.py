"""Dagster jobs with their schedules and sensors, built for each source and each pipeline."""
