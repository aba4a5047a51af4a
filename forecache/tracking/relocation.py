"""Correction of MLflow's absolute paths of artifacts after a home was moved or copied."""

import sqlite3
from contextlib import closing
from pathlib import Path

from forecache.settings import Settings

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_UNDER_HOME = "/mlflow/artifacts"


def artifact_root(settings: Settings) -> str:
    """The root of the database's artifacts; "" if they lie outside the home and do not move with it."""
    return "" if settings.mlflow_artifacts or settings.mlflow_uri else settings.mlflow_artifact_root


def relocate(database: Path, *, before: str, now: str) -> None:
    """Rewrite the recorded paths of artifacts from one root to another.

    Args:
        before: The root of the recorded paths; empty: derive it from the experiments' locations.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        before = before or _recorded_root(connection)
        if not before or before == now:
            return
        for table, column in _PLACES:
            connection.execute(
                f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                (now, len(before) + 1, len(before) + 1, f"{before}/"),
            )


def _recorded_root(connection: sqlite3.Connection) -> str:
    """The artifact root by the recorded experiments, for a home without a record of it."""
    for location, name in connection.execute("select artifact_location, name from experiments"):
        root = str(location).removesuffix(f"/{name}")
        if root != location and root.endswith(_UNDER_HOME):
            return root
    return ""
