"""Repeats look-ups of live views: merges the published version with rows of the stream's table."""
