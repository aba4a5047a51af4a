"""Alerts out of the project: what is wrong is told once to each sink of the settings, and so is that it is over."""
