"""Checks of stores and releases: every byte of what is on disk, and the changes between two versions."""
