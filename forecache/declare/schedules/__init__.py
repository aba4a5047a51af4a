"""Schedules: the as-of dates of a pipeline, and the times of its runs."""
