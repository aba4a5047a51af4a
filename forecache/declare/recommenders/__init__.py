"""Recommenders: lists of items for each user, and for each item."""
