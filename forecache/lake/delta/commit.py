"""The one place that commits to the lake's Delta tables.

Data files are written first, under names of their own, by Spark's tasks or from Arrow; nobody sees them. The driver
then commits them through delta-rs, which creates the log's next entry only if nobody else has: on a disk and on an
object store alike. Every attempt looks at the newest state of the table again and decides anew what to add and what to
remove, so that two writers never both replace what one of them has not seen.
"""

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forecache.errors import ForecacheError, InputError, UnavailableError
from forecache.lake.delta.commit_errors import as_known_error, other_type, store_error
from forecache.lake.delta.commit_mark import MARK, STORE_FAILURES, mark_of
from forecache.lake.delta.files import DataFile, statistics_json
from forecache.lake.delta.log import Kept, active_files, open_if_exists
from forecache.settings import Settings
from forecache.steps import lake_step

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema


# How long a commit goes on trying while others commit to the same table, how often at least (an attempt may merge files
# for minutes), and how long it waits in between.
_PATIENCE_S, _LEAST_TRIES = 120.0, 10
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


@dataclass(frozen=True)
class Target:
    """A table to commit to, which is created where there is none.

    Attributes:
        add_columns: Add the schema's missing columns to the table.
        fit: Refuse rows whose column types differ from the table's.
        keep_log: Keep every entry of the log, since versions, models and runs name old versions of the table; else
            checkpoints remove those that are 8 days old, a day more than maintenance keeps files.
        configuration: Further properties of a new table.
        kept: The table for one that appends often: it is not opened anew, and `State.files` is empty.
    """

    settings: Settings
    name: str
    schema: "Schema"
    partition_by: tuple[str, ...] = ()
    change_feed: bool = False
    add_columns: bool = True
    fit: bool = True
    keep_log: bool = True
    configuration: Mapping[str, str] = field(default_factory=dict)
    kept: Kept | None = None


@dataclass(frozen=True)
class Change:
    """What a commit does to a table at the version that it was decided on.

    Attributes:
        files: Files that the table has afterwards; those that it has already are left as they are.
        replaced: Files that it has and that go, but for those among `files`.
        schema: Columns of the whole table afterwards, where all of it is replaced.
        rearranged: The rows stay those that they were.
        transactions: By application, the number of its transaction that this is (Delta's `txn`); where it stands in the
            table, what belongs to it does.
        partitions: What is told of the partitions that are written, by name and value, such as `as_of=2026-01-01`.
    """

    files: Sequence[DataFile] = ()
    replaced: Sequence[DataFile] = ()
    schema: "Schema | None" = None
    rearranged: bool = False
    transactions: Mapping[str, int] = field(default_factory=dict)
    partitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """A table at its newest version: -1, without a table, where there is none. Its files have no bounds."""

    delta: "DeltaTable | None"
    version: int
    files: Sequence[DataFile]


def commit(target: Target, decide: Callable[[State], Change], *, note: Mapping[str, str] | None = None) -> int:
    """Bring a table's log forward by one entry, by two where columns are added; by none where it is already as decided.

    Args:
        decide: Called at each attempt with the table at its newest version; what it raises goes through.
        note: Written beside the change; a run's id under `run_id`.

    Returns:
        The Delta version of the commit, or the newest where there was nothing to do.

    Raises:
        ConflictError: Others committed to the table at each of at least ten attempts, for two minutes.
        InputError: A column has another type in the table than in the rows, or the table lacks it and is to get none.
        UnavailableError: No space is left on the device; the table is as it was. Or the object store failed time and
            again.
    """
    mark, pause, failures, tries = uuid.uuid4().hex, _FIRST_PAUSE_S, 0, 0
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        version = -1
        try:
            state = _state_of(target)
            change = decide(state)
            if _is_done(state, change):
                return state.version
            version = state.version + 1
            lake_step("decided")
            _write_entry(target, state, change, {**(note or {}), MARK: mark})
            lake_step("committed")
            return version
        except ForecacheError:
            raise
        except Exception as error:
            # The answer of an object store may be lost on the way although it took the entry.
            if version >= 0 and mark_of(target.settings, target.name, version) == mark:
                return version
            known = as_known_error(target.name, error) or (
                store_error(target.name, error) if target.settings.lake_is_remote else None
            )
            if known is None:
                raise
            failures, tries = failures + isinstance(known, UnavailableError), tries + 1
            is_over = failures > (STORE_FAILURES if target.settings.lake_is_remote else 0)
            if is_over or (tries >= _LEAST_TRIES and time.monotonic() > give_up):
                raise known from error
        time.sleep(random.uniform(0.5, 1.0) * pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _state_of(target: Target) -> State:
    delta = target.kept.newest() if target.kept else open_if_exists(target.settings, target.name)
    if delta is None:
        return State(None, -1, [])
    if target.fit:
        _fit(target, delta)
    return State(delta, int(delta.version()), [] if target.kept else active_files(delta))


def _fit(target: Target, delta: "DeltaTable") -> None:
    known = {each.name: each.type for each in delta.schema().fields}
    for each in target.schema.fields:
        if known.get(each.name, each.type) != each.type:
            raise other_type(target.name, each.name, known[each.name], each.type)
    added = [each for each in target.schema.fields if each.name not in known]
    if added and not target.add_columns:
        raise InputError(
            f"The table {target.name!r} has no column {added[0].name!r}.", remedy="Leave it out of the rows."
        )
    if added:
        delta.alter.add_columns(added)
        delta.update_incremental()


def _is_done(state: State, change: Change) -> bool:
    if state.delta is None or (change.schema is not None and change.schema != state.delta.schema()):
        return False
    now, after = {file.path for file in state.files}, {file.path for file in change.files}
    if not (after <= now and all(file.path in after for file in change.replaced)):
        return False
    return all(state.delta.transaction_version(name) == number for name, number in change.transactions.items())


def _write_entry(target: Target, state: State, change: Change, metadata: Mapping[str, Any]) -> None:
    from deltalake import CommitProperties
    from deltalake.transaction import AddAction, RemoveAction, Transaction

    now = int(time.time() * 1000)
    before, after = {file.path for file in state.files}, {file.path for file in change.files}
    added = [
        AddAction(
            file.path, file.size_bytes, file.partition, now, not change.rearranged, statistics_json(file.statistics)
        )
        for file in change.files
        if file.path not in before
    ]
    removed = [
        RemoveAction(file.path, not change.rearranged, now, file.size_bytes, dict(file.partition))
        for file in change.replaced
        if file.path not in after
    ]
    if change.partitions:
        metadata = {**metadata, "partitions": {name: dict(told) for name, told in change.partitions.items()}}
    properties = CommitProperties(
        custom_metadata=dict(metadata),
        # No retries of delta-rs's own: they would not look at the table again.
        max_commit_retries=0,
        app_transactions=[
            *(Transaction(name, told["state"]) for name, told in change.partitions.items()),
            *(Transaction(name, number, now) for name, number in change.transactions.items()),
        ],
    )
    if state.delta is None:
        _create(target, added, properties)
    elif change.schema is not None and change.schema != state.delta.schema():
        # Of delta-rs's modes only this one changes the columns; it removes every file that is there by itself.
        _write(state.delta, added, change.schema, "overwrite", properties)
    else:
        _write(state.delta, [*removed, *added], state.delta.schema(), "append", properties)


def _write(delta: "DeltaTable", actions: list[Any], schema: "Schema", mode: str, properties: Any) -> None:
    columns = delta.metadata().partition_columns
    delta.create_write_transaction(actions, mode, schema, partition_by=columns, commit_properties=properties)


def _create(target: Target, added: list[Any], properties: Any) -> None:
    """The table's first entry, with its columns and its first rows."""
    from deltalake.transaction import create_table_with_add_actions

    # delta-rs reads no deletion vectors: no engine is to write any, whatever its defaults.
    configuration = {
        "delta.enableDeletionVectors": "false",
        "delta.enableChangeDataFeed": str(target.change_feed).lower(),
        "delta.enableExpiredLogCleanup": str(not target.keep_log).lower(),
        "delta.logRetentionDuration": "interval 8 days",
        **target.configuration,
    }
    create_table_with_add_actions(
        target.settings.table_uri(target.name),
        target.schema,
        added,
        mode="error",
        partition_by=list(target.partition_by),
        configuration=configuration,
        storage_options=target.settings.storage_options,
        commit_properties=properties,
    )
