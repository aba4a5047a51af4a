"""Watching a project: alerts from the state of the lake, the registry, the stores and the streams."""
