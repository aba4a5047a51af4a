"""Incremental scoring: only entities whose features changed."""
