"""Evaluation of lists: split, metrics, gate, page."""
