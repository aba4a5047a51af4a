"""A fork of a registry: all versions of all models under their numbers, in a database of the trial's own.

The files of models and runs stay where they are and are only read, see `forecache.models.tracking.trial_client`.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from forecache.base.environments import LOCAL
from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.models.tracking.client import (
    artifact_root,
    create_database,
    mark_database_ready,
    recorded_root,
    relocate_artifacts,
)
from forecache.models.tracking.records import read_database

_PAGE_BYTES = 512  # each of MLflow's many empty tables and indexes takes a page
_SCHEMA = "select sql from sqlite_master where sql is not null and name not like 'sqlite_%' order by rowid"
_OF_VERSIONS = "select run_id from model_versions where run_id is not null"
_RUNS = f"where run_uuid in ({_OF_VERSIONS})"
_LOGGED = f"where source_run_id in ({_OF_VERSIONS})"
_OF_LOGGED = f"where model_id in (select model_id from logged_models {_LOGGED})"
_WHOLE = (
    *("alembic_version", "workspaces", "experiments", "experiment_tags"),
    *("registered_models", "registered_model_tags", "registered_model_aliases", "model_versions", "model_version_tags"),
)
_TABLES = {
    **dict.fromkeys(_WHOLE, ""),
    **dict.fromkeys(("runs", "tags", "params", "latest_metrics"), _RUNS),
    "logged_models": _LOGGED,
    **dict.fromkeys(("logged_model_tags", "logged_model_params"), _OF_LOGGED),
}
"""The tables that are copied, and which rows; runs without a version, histories of metrics and traces are not."""


def fork_models(base: Settings, trial: Settings, database: Path) -> dict[str, int]:
    """Copy the registry of the environment that a trial defers to; returns the highest version of each model.

    UnavailableError if it is on a server: only a database can be read in one state.
    """
    uri = base.mlflow_tracking_uri
    if uri.startswith("http"):
        from forecache.models.tracking.runs import public_tracking_uri

        raise UnavailableError(
            f"The models of {base.env or LOCAL!r} are on the MLflow server {public_tracking_uri(base)}; a trial copies "
            "them from a database.",
            remedy="Give as that environment's mlflow_uri the URL of the server's database, which is only read.",
        )
    is_sqlite = uri.startswith("sqlite:")
    if is_sqlite and not Path(uri.removeprefix("sqlite:///")).exists():
        return {}
    database.parent.mkdir(parents=True)
    if is_sqlite:  # of the same tables, without MLflow, whose import takes seconds
        [[*schema]] = read_database(base, [_SCHEMA])
        with closing(sqlite3.connect(database)) as own:
            # One transaction: else each table waits for the disk.
            own.executescript(
                ";\n".join([f"pragma page_size = {_PAGE_BYTES}", "begin", *(text for (text,) in schema), "commit;"])
            )
    else:
        create_database(database)
    with closing(sqlite3.connect(database)) as own, own:
        columns = {
            table: _quote_all([row[1] for row in own.execute(f"pragma table_info({table})")]) for table in _TABLES
        }
        found = read_database(base, [f"select {columns[table]} from {table} {some}" for table, some in _TABLES.items()])
        for table, rows in zip(_TABLES, found, strict=True):
            marks = ", ".join("?" * (columns[table].count(",") + 1))
            own.executemany(f"insert or replace into {table} ({columns[table]}) values ({marks})", rows)
        models = dict(own.execute("select name, max(version) from model_versions group by name"))
    if is_sqlite and (root := artifact_root(base)):  # of a home that was moved, and not used since
        relocate_artifacts(database, before=recorded_root(Path(uri.removeprefix("sqlite:///"))), now=root)
    with closing(sqlite3.connect(database)) as own, own:  # the files of new runs are the trial's own
        own.execute("update experiments set artifact_location = ? || '/' || name", (trial.mlflow_artifact_root,))
    mark_database_ready(database, trial.mlflow_artifact_root)
    return models


def _quote_all(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def forked_runs(database: Path) -> set[str]:
    """The ids of the runs that were copied."""
    if not database.exists():
        return set()
    with closing(sqlite3.connect(database)) as own:
        return {run for (run,) in own.execute("select run_uuid from runs")}
