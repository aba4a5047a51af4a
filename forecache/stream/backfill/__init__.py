"""Landed days of a source in the table of its stream."""
