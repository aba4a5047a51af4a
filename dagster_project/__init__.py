"""The project: pipelines, their shared sources and the definitions that Dagster loads."""
