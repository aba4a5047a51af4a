"""Backfill: adds landed days of a source to the table of its stream."""
