"""Mechanisms of which each exists once, for all parts of the framework."""
