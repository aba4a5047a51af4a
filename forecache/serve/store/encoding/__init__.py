"""Encoding: rows of the prediction table to keys and entries."""
