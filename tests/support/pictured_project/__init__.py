"""A project for the pictures of Dagster's pages: a stream, and real-time models with a log and a rollout."""
