"""Fills the registry when it is imported."""

from staleness_project.registry import register


@register("visits")
def clean(rows):
    return [row for row in rows if row > 0]
