"""The shipped project's instance."""

from dagster_project.instance import ensure_instance

__all__ = ["ensure_instance"]
