"""Rollouts of releases: the counts and guards of each step, and the controller that passes or returns it."""
