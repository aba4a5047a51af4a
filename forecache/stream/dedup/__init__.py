"""Deduplication of events: ids of those that were received in the last days, in memory and in local files."""
