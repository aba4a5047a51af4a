"""A home that was moved or copied: MLflow writes down absolute places of artifacts, which are put right once."""

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
    """What the database's artifacts are relative to; "" where they lie elsewhere than in the home and do not move."""
    return "" if settings.mlflow_artifacts or settings.mlflow_uri else settings.mlflow_artifact_root


def relocate(database: Path, *, before: str, now: str) -> None:
    """Rewrite the places of artifacts that begin with one root to another.

    Args:
        before: The root that the paths begin with now; empty: derive it from the experiments' recorded locations.
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
    """The artifact root that a home without a record of it had."""
    for location, name in connection.execute("select artifact_location, name from experiments"):
        root = str(location).removesuffix(f"/{name}")
        if root != location and root.endswith(_UNDER_HOME):
            return root
    return ""
