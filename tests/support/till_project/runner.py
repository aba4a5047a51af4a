"""The shipped project's runner serves this one, too: it goes by FORECACHE_PROJECT."""

from dagster_project.runner import run

__all__ = ["run"]
