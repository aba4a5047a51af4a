"""MLflow's database: created once; of an SQLite one in the home the artifacts are found where the home was moved."""

import shutil
from functools import cache
from pathlib import Path

from forecache.files import lock
from forecache.settings import PROJECT_ROOT
from forecache.tracking.relocation import relocate

_LOCK = 0x666F7265  # one of Forecache's own among the database's


def prepare_database(path: Path, uri: str, root: str) -> None:
    """Create the database, or put the places of artifacts right where its home was moved or copied.

    Two processes that migrate a new database at once lose runs: one does it, and says so in a file beside it.
    """
    ready = path.with_name(f"{path.name}.ready")

    def is_ready() -> bool:
        return path.exists() and ready.exists() and ready.read_text() == root

    if is_ready():
        return
    with lock(path.with_name(f"{path.name}.lock")):
        if not is_ready():
            _start_from(_template(), path)
            _migrate(uri)
            if root:
                relocate(path, before=ready.read_text() if ready.exists() else "", now=root)
            ready.write_text(root)


@cache
def prepare_shared_database(uri: str) -> None:
    """Create the tables of a PostgreSQL database, one process of whatever machine after the other."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    with create_engine(uri, poolclass=NullPool).connect() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})  # until the connection is closed
        _migrate(uri)


def _template() -> Path:
    """An empty database that set-up has migrated: MLflow goes through forty migrations for a new one, for 3 seconds."""
    import mlflow

    return PROJECT_ROOT / ".tools" / f"mlflow-{mlflow.__version__}.sqlite"


def _start_from(template: Path, path: Path) -> None:
    if template.is_file() and not path.exists():
        draft = path.with_name(f".{path.name}.draft")
        shutil.copyfile(template, draft)
        draft.replace(path)


def _migrate(uri: str) -> None:
    import mlflow

    mlflow.MlflowClient(uri, uri).search_experiments(max_results=1)


def main() -> None:
    """Make the template, for set-up."""
    template = _template()
    draft = template.with_name(f".{template.name}.draft")
    draft.unlink(missing_ok=True)
    _migrate(f"sqlite:///{draft}")
    draft.replace(template)


if __name__ == "__main__":
    main()
