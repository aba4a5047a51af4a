"""Saves the tiles of a stream's live views in a local file, so that a start need not rebuild them from rows."""
