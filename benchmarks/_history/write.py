"""Write a history in bulk, in the shape that nightly runs leave: the rows of each are copies of those of the demo's."""

import json
import sqlite3
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.kit.delta.commit import Change, commit
from forecache.kit.delta.files import place_of, write_file
from forecache.kit.delta.small_tables import SORTED_BY, append_to_small_table, read_small_table, small_table_target
from forecache.kit.delta.tables import append_rows as append_partitions
from forecache.kit.delta.tables import open_table, table_exists
from forecache.kit.delta.writers import new_folder, new_path
from forecache.plugins.drift.measurements import MONITORING_TABLE, Measurement, append_measurements

OWN, VIEW = ("churn", "spend"), "customer"
"""The pipelines of the demo, and the feature view of both."""
LAST = date(1998, 6, 29)
"""The night before that of the demo."""
_FILE_ROWS, _GROUP_ROWS = 16_384, 2_048
_SINGLE = 100
_FIGURES = 20
_NIGHT_ROWS = 10


def write_history(settings: Settings, *, nights: int, pipelines: int) -> None:
    """Add the history of so many nights before the demo's, of its two pipelines and of others that are not declared."""
    days = [LAST - timedelta(days=number) for number in reversed(range(nights))]
    names = [*OWN, *(f"other{number:02}" for number in range(pipelines - len(OWN)))]
    weeks = days[::7]
    _write(settings, "stage_ledger", _ledger_rows(settings, days, names))
    promoted = read_small_table(settings, "promotion_ledger", [("pipeline", "=", "churn")])[:1]
    _write(settings, "promotion_ledger", ({**row, "pipeline": n} for row in promoted for _ in weeks for n in names[2:]))
    append_measurements(settings, [_measurement("churn", LAST, 0)])
    _write(settings, MONITORING_TABLE, _measurements(days, names))
    ingested = read_small_table(settings, "ingested_files", [])[0]
    of_others = ({**ingested, "source": f"source_{n}", "file": f"{day}.csv"} for day in days for n in names[2:])
    _write(settings, "ingested_files", of_others)
    for table in (f"features_{VIEW}", *(f"predictions_{name}" for name in OWN)):
        _write_nights(settings, table, days)
    _write_models(settings, len(weeks), names)
    _write_runs(settings, days, names)


def _ledger_rows(settings: Settings, days: Sequence[date], names: Sequence[str]) -> Iterable[dict[str, Any]]:
    """What a night of each pipeline adds to the ledger, older than all that the demo wrote."""
    found = read_small_table(settings, "stage_ledger", [("as_of", "=", LAST + timedelta(days=1))])
    for name in names:
        like, view = (name, VIEW) if name in OWN else (OWN[0], f"{VIEW}_{name}")
        of_night = [row for row in found if like in row["subject"] or VIEW in row["subject"]]
        of_night += [{**row, "stage": "monitor", "subject": like} for row in of_night if row["stage"] == "drift"]
        for day in days:
            for row in of_night:
                subject = row["subject"].replace(like, name).replace(VIEW, view)
                yield {**row, "subject": subject, "as_of": day, "commit_version": None}


def _measurement(name: str, day: date, number: int) -> Measurement:
    return Measurement(name, day, day, "feature", f"feature_{number}", "training split", 1, 0.01, 23_570, js=0.01)


def _measurements(days: Sequence[date], names: Sequence[str]) -> Iterable[dict[str, Any]]:
    now = datetime.now(timezone.utc)
    for day in days:
        for name in names:
            for number in range(_FIGURES):
                yield {**vars(_measurement(name, day, number)), "recorded_at": now}


def _write(settings: Settings, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Rows in files such as merges leave them, and the last ones in small files as they were appended."""
    schema = pa.schema(open_table(settings, name).schema())
    held: list[dict[str, Any]] = []
    for row in rows:
        held.append(row)
        if len(held) == _FILE_ROWS + _SINGLE:
            _write_file(settings, name, schema, held[:_FILE_ROWS])
            held = held[_FILE_ROWS:]
    if held[:-_SINGLE]:
        _write_file(settings, name, schema, held[:-_SINGLE])
    for row in held[-_SINGLE:]:
        append_to_small_table(settings, name, schema, lambda _, row=row: [row])


def _write_file(settings: Settings, name: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=schema).sort_by([(column, "ascending") for column in SORTED_BY[name]])
    groups = [table.slice(first, _GROUP_ROWS) for first in range(0, len(table), _GROUP_ROWS)]
    file = write_file(place_of(settings, name).open(), new_path(new_folder(), {}), schema, groups)
    commit(small_table_target(settings, name, schema), lambda _: Change([file]))


def _write_nights(settings: Settings, table: str, days: Sequence[date]) -> None:
    """A small partition for every night, a week in a commit."""
    some = open_table(settings, table).to_pyarrow_table().slice(0, _NIGHT_ROWS).drop_columns("as_of")
    for first in range(0, len(days), 7):
        week = days[first : first + 7]
        parts = [some.append_column("as_of", pa.array([day] * len(some), pa.date32())) for day in week]
        append_partitions(settings, table, pa.concat_tables(parts), partition_by=["as_of"])


def _write_models(settings: Settings, versions: int, names: Sequence[str]) -> None:
    """So many versions of each model with their runs, metrics and tags, as copies of the demo's first."""
    with closing(sqlite3.connect(settings.home_path / "mlflow" / "mlflow.db")) as db, db:
        for name in names:
            like = name if name in OWN else "churn"
            (run,) = db.execute("SELECT run_id FROM model_versions WHERE name = ? AND version = 1", (like,)).fetchone()
            first = 2 if name in OWN else 1
            new = [(version, uuid.uuid4().hex) for version in range(first, versions + 2)]
            for table in ("registered_models", "registered_model_aliases") if name not in OWN else ():
                _copy(db, table, "name = ?", like, [{"name": name}])
            for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
                _copy(db, table, "run_uuid = ?", run, [{"run_uuid": each} for _, each in new])
            changes = [{"name": name, "version": version, "run_id": each} for version, each in new]
            for table in ("model_versions", "model_version_tags"):
                _copy(db, table, "version = 1 AND name = ?", like, changes)


def _write_runs(settings: Settings, days: Sequence[date], names: Sequence[str]) -> None:
    """A nightly run of each pipeline and night in Dagster's run storage and in its index of asset events.

    Events of the pipelines that are not declared are rows without content: nobody reads them.
    """
    history = settings.dagster_home / "history"
    with (
        closing(sqlite3.connect(history / "runs.db")) as runs,
        runs,
        closing(sqlite3.connect(history / "runs" / "index.db")) as index,
        index,
    ):
        for name in names:
            like = f"nightly_{name if name in OWN else 'churn'}"
            (run,) = runs.execute("SELECT run_id FROM runs WHERE pipeline_name = ?", (like,)).fetchone()
            new = [{"run_id": str(uuid.uuid4()), "partition": day.isoformat()} for day in days]
            for table in ("runs", "run_tags"):
                _copy(runs, table, "run_id = ?", run, new)
            blank = {} if name in OWN else {"asset_key": json.dumps([name]), "event": "{}"}
            changes = [{"run_id": each["run_id"], **blank} for each in new]
            for table in ("event_logs", "asset_check_executions") if name in OWN else ("event_logs",):
                _copy(index, table, "run_id = ?", run, changes)


def _copy(db: sqlite3.Connection, table: str, where: str, value: str, changes: Sequence[Mapping[str, Any]]) -> None:
    """Insert copies of some rows, once for each of the changes; a key that SQLite counts is left to it."""
    found = db.execute(f"SELECT * FROM {table} WHERE {where}", (value,))
    names = [column[0] for column in found.description]
    kept = [name for name in names if name != "id"]
    like = [dict(zip(names, row, strict=True)) for row in found]
    rows = ([changed.get(name, row[name]) for name in kept] for changed in changes for row in like)
    listed = ", ".join(f'"{name}"' for name in kept)
    db.executemany(f"INSERT INTO {table} ({listed}) VALUES ({', '.join('?' * len(kept))})", rows)


def described(settings: Settings) -> dict[str, int]:
    """Rows, files and log entries of the history, for the results."""
    found: dict[str, int] = {}
    for name in SORTED_BY:
        if table_exists(settings, name):
            files = pa.table(open_table(settings, name).get_add_actions(flatten=True))
            found[f"{name} rows"], found[f"{name} files"] = sum(files["num_records"].to_pylist()), files.num_rows
    found["lake bytes"] = sum(path.stat().st_size for path in Path(settings.lake_uri).rglob("*") if path.is_file())
    return found
