"""Comparison of two installations after the same days: every table, what is served, models, releases."""

from collections import Counter
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.kit.delta.tables import table_names
from forecache.lake.query import query
from forecache.models.tracking.client import connect_mlflow
from forecache.realtime.release.lake_state import list_models_in_lake, read_lake_state
from forecache.serve.store import Store, open_remote, open_store, pull

_OWN = {
    "run_id", "code_version", "ingested_at", "scored_at", "modified_at", "received_at", "recorded_at",
    "raw_version", "feature_version", "training_version", "features_version", "source_file", "file",
    "position", "place", "hour", "kafka_at", "kafka_timestamp", "base", "late",
}  # fmt: skip
"""Columns that say when, where and by which run or commit a row was made."""
_DECISION = ("pipeline", "action", "from_version", "to_version", "candidate", "verdict")
_LEDGERS = ("stage_ledger",)
"""Tables of which a stage that two machines did adds a row each."""
_LOG = "request_log_"
_SHOWN = 3


def compare(expected: Settings, found: Settings, *, served: Iterable[str], asked: Set[str], folder: Path) -> list[str]:
    """Compare all contents; returns a sentence for each difference.

    Args:
        served: Names of published pipelines and views.
        asked: Ids of the requests that real-time models have answered.
        folder: For what is pulled, as a new replica does.
    """
    differences = []
    names = {name for settings in (expected, found) for name in table_names(settings)}
    for name in sorted(names.difference(_LEDGERS)):
        if name.startswith(_LOG):
            differences += _check_log(found, name, asked)
        else:
            differences += compare_counts(name, _rows(expected, name), _rows(found, name))
    remote = open_remote(found.store_remote, found.storage_options)
    for name in sorted(served):
        replica = Store(folder / name)
        try:
            pull(replica, remote)
        except NotFoundError as error:
            differences.append(str(error))
            continue
        differences += compare_counts(f"served {name}", _served(open_store(expected, name)), _served(replica))
    for name in list_models_in_lake(expected):
        releases = [read_lake_state(settings, name) for settings in (expected, found)]
        current = [None if state is None else state.pointer.current for state in releases]
        if current[0] != current[1]:
            differences.append(f"Release of {name}: {current[1]} instead of {current[0]}.")
    versions = [_versions(settings) for settings in (expected, found)]
    if versions[0] != versions[1]:
        differences.append(f"Registered versions: {versions[1]} instead of {versions[0]}.")
    return differences


def _check_log(settings: Settings, name: str, asked: Set[str]) -> list[str]:
    """Compare a request log with what was asked: a killed reader loses answers, and no reader logs one twice."""
    rows = query(settings, f"select request_id, replica, variant, count(*) n from {name} group by all").to_pylist()
    doubled = [row["request_id"] for row in rows if row["n"] > 1]
    made_up = {row["request_id"] for row in rows} - asked
    found = [f"{name}: {len(doubled)} answers doubled, such as {doubled[:_SHOWN]}."] if doubled else []
    return found + ([f"{name}: {len(made_up)} answers that were not asked for."] if made_up else [])


def _rows(settings: Settings, name: str) -> Counter[str]:
    if name not in table_names(settings):
        return Counter()
    rows = query(settings, f"select * from {name}")
    columns = [each for each in rows.column_names if each not in _OWN]
    if name == "promotion_ledger":
        columns = [*_DECISION]
    return Counter(repr(tuple(row.values())) for row in rows.select(columns).to_pylist())


def _served(store: Store) -> Counter[str]:
    with store.snapshot() as snapshot:
        keys = sorted(key for key, _ in snapshot.items())
        return Counter(f"{key!r}: {value!r}" for key, value in zip(keys, snapshot.get_many(keys), strict=True))


def _versions(settings: Settings) -> dict[str, int]:
    client: Any = connect_mlflow(settings)
    return dict(sorted(Counter(str(each.name) for each in client.search_model_versions()).items()))


def compare_counts(name: str, expected: Counter[str], found: Counter[str]) -> list[str]:
    """Compare two multisets of rows; returns a sentence with examples if they differ, else nothing."""
    missing, more = expected - found, found - expected
    if not missing and not more:
        return []
    doubled = sum(count for row, count in more.items() if row in expected)
    examples = [f"- {row}" for row in list(missing)[:_SHOWN]] + [f"+ {row}" for row in list(more)[:_SHOWN]]
    return [
        "\n    ".join([
            f"{name}: {missing.total()} of {expected.total()} rows missing, {more.total()} others, {doubled} doubled",
            *examples,
        ])
    ]  # fmt: skip
