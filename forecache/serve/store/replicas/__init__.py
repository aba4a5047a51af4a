"""Versions on other machines: pushed to a folder or bucket, pulled from it."""
