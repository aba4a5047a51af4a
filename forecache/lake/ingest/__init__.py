"""Ingestion: every landing row ends in exactly one of the raw or the quarantine table, once."""
