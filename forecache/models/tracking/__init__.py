"""MLflow: its database or server, the runs of trainings, and artifacts with checksums."""
