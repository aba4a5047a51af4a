"""Mechanisms that each exist once, for every part of the framework."""
