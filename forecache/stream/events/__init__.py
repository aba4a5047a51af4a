"""Converts the messages of a topic to typed events and finds the bad ones."""
