"""Batch-first machine learning on a data lake."""
