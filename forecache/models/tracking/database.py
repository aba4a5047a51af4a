"""MLflow's database, created once; an SQLite one in the home keeps its artifacts if the home is moved or copied.

MLflow records absolute paths of artifacts, which are rewritten once after a move.
"""

import shutil
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

from forecache.base.files import lock
from forecache.base.settings import PROJECT_ROOT, Settings

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


def relocate_artifacts(database: Path, *, before: str, now: str) -> None:
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


_LOCK = 0x666F7265  # Forecache's own key of an advisory lock


def prepare_database(path: Path, uri: str, root: str) -> None:
    """Create the database, or correct the paths of artifacts if its home was moved or copied.

    Two processes that migrate a new database at once lose runs: one does it under a lock, and writes a file beside it.
    """
    ready = path.with_name(f"{path.name}.ready")

    def is_ready() -> bool:
        return path.exists() and ready.exists() and ready.read_text() == root

    if is_ready():
        return
    with lock(path.with_name(f"{path.name}.lock")):
        if not is_ready():
            _copy_template(_template(), path)
            _migrate(uri)
            if root:
                relocate_artifacts(path, before=ready.read_text() if ready.exists() else "", now=root)
            ready.write_text(root)


@cache
def prepare_shared_database(uri: str) -> None:
    """Create the tables of a PostgreSQL database; a lock lets one process of all machines do so at a time."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    with create_engine(uri, poolclass=NullPool).connect() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})  # until the connection is closed
        _migrate(uri)


def _template() -> Path:
    """Path of an empty database that set-up has migrated: MLflow takes 3 s for the forty migrations of a new one."""
    import mlflow

    return PROJECT_ROOT / ".tools" / f"mlflow-{mlflow.__version__}.sqlite"


def _copy_template(template: Path, path: Path) -> None:
    if template.is_file() and not path.exists():
        draft = path.with_name(f".{path.name}.draft")
        shutil.copyfile(template, draft)
        draft.replace(path)


def _migrate(uri: str) -> None:
    import mlflow

    mlflow.MlflowClient(uri, uri).search_experiments(max_results=1)


def main() -> None:
    """Create the template, for set-up."""
    template = _template()
    draft = template.with_name(f".{template.name}.draft")
    draft.unlink(missing_ok=True)
    _migrate(f"sqlite:///{draft}")
    draft.replace(template)


if __name__ == "__main__":
    main()
