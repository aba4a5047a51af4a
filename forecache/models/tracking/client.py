"""MLflow's client: telemetry off, the database created once, and set as the database of this process.

An SQLite database in the home keeps its artifacts if the home is moved or copied: MLflow records their absolute paths,
which are rewritten once after a move.
"""

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.errors import DamagedError, UnavailableError
from forecache.base.files import lock
from forecache.base.settings import PROJECT_ROOT, Settings
from forecache.base.steps import begin_work

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Engine

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
    """Rewrite the recorded paths of artifacts from one root ("": that of the experiments' locations) to another."""
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


def prepare_database(path: Path, root: str) -> None:
    """Create the database, or correct the paths of artifacts if its home was moved or copied.

    Two processes that migrate a new database at once lose runs: one does it under a lock, and writes a file beside it.
    Raises as `check_database`.
    """
    check_database(path)
    if is_database_ready(path, root):
        return
    begin_work(f"creating {path}")
    with lock(path.with_name(f"{path.name}.lock")):
        if not is_database_ready(path, root):
            create_database(path)
            if root:
                relocate_artifacts(path, before=recorded_root(path), now=root)
            mark_database_ready(path, root)


def check_database(path: Path) -> None:
    """Read the schema of a SQLite database, if there is one: MLflow would try a damaged one for almost two minutes.

    Raises DamagedError, or UnavailableError if it cannot be opened.
    """
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("select count(*) from sqlite_master")
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"MLflow's database {path} cannot be read: {error}.") from None
    except sqlite3.DatabaseError as error:
        raise DamagedError(
            f"MLflow's database {path} is damaged: {error}.",
            remedy="Restore it from a copy. Without one, move it away: models are trained and registered anew.",
        ) from None


def create_database(path: Path) -> None:
    """Create a new SQLite database of MLflow, in a folder that exists."""
    _copy_template(_template(), path)
    _migrate(f"sqlite:///{path}")


def recorded_root(path: Path) -> str:
    """The root that the paths of a database's artifacts were written for; "" if that is not known."""
    ready = _ready_file(path)
    return ready.read_text() if ready.exists() else ""


def mark_database_ready(path: Path, root: str) -> None:
    """Note that a database is complete, and that the paths of its artifacts are those of this root."""
    _ready_file(path).write_text(root)


def is_database_ready(path: Path, root: str) -> bool:
    """Tell if the database is there with this root of artifacts, and all its tables."""
    ready = _ready_file(path)
    return path.exists() and ready.exists() and ready.read_text() == root


def _ready_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.ready")


@cache
def prepare_shared_database(uri: str) -> None:
    """Create the tables of a PostgreSQL database; a lock lets one process of all machines do so at a time."""
    with _lock_database(uri):
        _migrate(uri)


def upgrade_database(uri: str) -> None:
    """Create the tables of a PostgreSQL database, or change those of an earlier MLflow to what this one expects."""
    from mlflow.store.db import utils

    with _lock_database(uri) as engine:
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
        else:
            utils._upgrade_db(engine)


@contextmanager
def _lock_database(uri: str) -> Iterator["Engine"]:
    """Hold Forecache's lock of a PostgreSQL database, which one process of all machines has at a time."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})  # until the connection is closed
        yield engine


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


_VARIABLES = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
    "session_token": "AWS_SESSION_TOKEN",
    "default_region": "AWS_DEFAULT_REGION",
    "region": "AWS_DEFAULT_REGION",
    "endpoint": "MLFLOW_S3_ENDPOINT_URL",
    "endpoint_url": "MLFLOW_S3_ENDPOINT_URL",
}
"""The variables that MLflow's and boto3's part of S3 reads, by the name of delta-rs's option without `aws_`."""


def connect_mlflow(settings: Settings) -> "MlflowClient":
    """Turn telemetry off, create the database once under a lock, and set it as MLflow's in this process.

    Artifacts in a bucket are accessed with the options of the project's object store; ModuleNotFoundError without
    boto3.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    recorded = settings.base or settings  # where the files of a trial's forked models are
    if recorded.mlflow_uri or recorded.mlflow_artifacts:
        prepare_object_store(recorded)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = settings.mlflow_tracking_uri
    if uri.startswith("sqlite:///"):
        prepare_database(Path(uri.removeprefix("sqlite:///")), artifact_root(settings))
    elif uri.startswith("postgresql"):
        prepare_shared_database(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if settings.base is not None:
        from forecache.models.tracking.trial_client import TrialClient

        return TrialClient(settings, uri)
    return mlflow.MlflowClient(uri, uri)


def prepare_object_store(settings: Settings) -> None:
    """Give MLflow in this process access to artifacts in a bucket, also to one that a server names."""
    variables = object_store_variables(settings.storage_options)
    if "AWS_ACCESS_KEY_ID" in variables:
        os.environ.pop("AWS_SESSION_TOKEN", None)  # belongs to other keys
    os.environ.update(variables)
    if settings.mlflow_artifact_root.startswith("s3://"):
        import boto3  # noqa: F401  # fails now, not after the training, when MLflow writes the model


def object_store_variables(options: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that give MLflow access to a bucket, from object store options; secrets included."""
    given = {key.lower().removeprefix("aws_"): value for key, value in options.items()}
    variables = {variable: given[name] for name, variable in _VARIABLES.items() if given.get(name)}
    if given.get("virtual_hosted_style_request", "").lower() == "true":
        variables["MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"] = "virtual"
    return variables


def main() -> None:
    """Create the template, for set-up."""
    template = _template()
    draft = template.with_name(f".{template.name}.draft")
    draft.unlink(missing_ok=True)
    _migrate(f"sqlite:///{draft}")
    draft.replace(template)


if __name__ == "__main__":
    main()
