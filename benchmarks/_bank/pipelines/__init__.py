"""The declarations."""
