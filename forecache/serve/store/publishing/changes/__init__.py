"""Differences between the published state of a partition and its present one."""
