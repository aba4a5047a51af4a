"""The one place that commits to the lake's Delta tables.

Data files are written first, under unique names, by Spark's tasks or from Arrow; no reader sees them. The driver then
commits them through delta-rs, which creates the log's next entry only if nobody else has, on a disk and on an object
store alike. Every attempt reads the newest state of the table and decides again what to add and what to remove, so that
a writer never replaces files that it has not seen.

Each commit has a unique mark in its metadata. If the object store's answer to a commit is lost, the mark of the log's
entry tells whether this commit or another one took the version.
"""

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from forecache.base.errors import ForecacheError, InputError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, lake_step
from forecache.kit.delta.errors import as_known_error, as_store_error, type_mismatch_error
from forecache.kit.delta.files import DataFile, place_of, statistics_json
from forecache.kit.delta.log import CachedTable, active_files, open_if_exists, read_entry
from forecache.kit.lease import Lease, LeaseLostError
from forecache.kit.process.periodic import Backoff

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema


MARK = "commit"
"""Key in a commit's metadata of a text that no other commit has."""
STORE_FAILURES = 10
"""A commit fails once the object store has failed it so often, after the retries of its client."""
_PAUSE_S = 1.0


def read_commit_mark(settings: Settings, name: str, version: int) -> str | None:
    """Read the mark of a table's version; None if it has none, or does not exist (yet).

    UnavailableError if the object store does not answer: whether the commit was made is not known.
    """
    for attempt in range(STORE_FAILURES):
        try:
            actions = read_entry(place_of(settings, name).open(), version, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            known = as_store_error(name, error) if settings.lake_is_remote else None
            if known is None:
                raise
            if attempt == STORE_FAILURES - 1:
                raise known from error
            time.sleep(_PAUSE_S)
        else:
            return next((action["commitInfo"].get(MARK) for action in actions if "commitInfo" in action), None)
    raise AssertionError("unreachable")


# A commit that others overtake is tried for so long, and at least so often, as an attempt may merge files for minutes.
_PATIENCE_S, _LEAST_TRIES = 120.0, 10
_BACKOFF = Backoff(0.02, 1.0)


@dataclass(frozen=True)
class Target:
    """A table to commit to; it is created if it does not exist.

    With `keep_log` every entry of the log stays, since versions, models and runs name old versions of the table; else
    entries are removed when they are 8 days old, a day after maintenance may remove their files.
    """

    settings: Settings
    name: str
    schema: "Schema"
    partition_by: tuple[str, ...] = ()
    change_feed: bool = False
    add_columns: bool = True  # add the schema's missing columns to the table
    fit: bool = True  # refuse rows whose column types differ from the table's
    keep_log: bool = True
    configuration: Mapping[str, str] = field(default_factory=dict)  # further properties of a new table
    renamed: Mapping[str, str] = field(default_factory=dict)  # today's names of columns; `decide` rewrites the old ones
    kept: CachedTable | None = None  # for frequent appends: not opened again, and `TableState.files` is empty
    fence: Lease | None = None  # under which the caller decides; a later holder's commit refuses that of an earlier one


@dataclass(frozen=True)
class Change:
    """Change of a table, decided at one version of it."""

    files: Sequence[DataFile] = ()  # to add; those that the table already has stay
    replaced: Sequence[DataFile] = ()  # to remove, except those in `files`
    schema: "Schema | None" = None  # new columns, if the whole table is replaced
    rearranged: bool = False  # the rows stay the same (a compaction)
    transactions: Mapping[str, int] = field(default_factory=dict)  # by application, Delta's `txn`
    partitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # metadata by `as_of=2026-01-01`


@dataclass(frozen=True)
class TableState:
    """A table at its newest version; -1 and no table if it does not exist. Its files have no column bounds."""

    delta: "DeltaTable | None"
    version: int
    files: Sequence[DataFile]


def commit(target: Target, decide: Callable[[TableState], Change], *, note: Mapping[str, str] | None = None) -> int:
    """Add an entry to a table's log, or two if columns are added; none if the table already is as decided.

    `decide` is called at each attempt with the table at its newest version; its exceptions pass through. `note` is
    metadata of the commit; a run's id under `run_id`.

    Returns:
        The Delta version of the commit, or the newest version if there was nothing to do.

    Raises:
        ConflictError: Others committed to the table at each of at least ten attempts, for two minutes.
        InputError: A column has another type in the table than in the rows, or the table lacks it and `add_columns` is
            false.
        LeaseLostError: The lease `fence` is lost.
        UnavailableError: No space is left on the device; the table is unchanged. Or the object store failed repeatedly.
    """
    mark, failures, tries = uuid.uuid4().hex, 0, 0
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        version = -1
        try:
            state = _read_state(target)
            change = decide(state)
            if _is_done(state, change):
                return state.version
            begin_work(f"a commit to {target.name}")
            change = _fence(target, state, change)
            version = state.version + 1
            lake_step("decided")
            _write_entry(target, state, change, {**(note or {}), MARK: mark})
            lake_step("committed")
            return version
        except ForecacheError:
            raise
        except Exception as error:
            # The answer of an object store may be lost although it wrote the entry.
            if version >= 0 and read_commit_mark(target.settings, target.name, version) == mark:
                return version
            known = as_known_error(target.name, error) or (
                as_store_error(target.name, error) if target.settings.lake_is_remote else None
            )
            if known is None:
                raise
            failures, tries = failures + isinstance(known, UnavailableError), tries + 1
            is_over = failures > (STORE_FAILURES if target.settings.lake_is_remote else 0)
            if is_over or (tries >= _LEAST_TRIES and time.monotonic() > give_up):
                raise known from error
        time.sleep(random.uniform(0.5, 1.0) * _BACKOFF.pause_s(tries))


def _read_state(target: Target) -> TableState:
    delta = target.kept.open_newest() if target.kept else open_if_exists(target.settings, target.name)
    if delta is None:
        return TableState(None, -1, [])
    if target.fit:
        _fit_columns(target, delta)
    return TableState(delta, int(delta.version()), [] if target.kept else active_files(delta))


def _fit_columns(target: Target, delta: "DeltaTable") -> None:
    known = {each.name: each.type for each in delta.schema().fields}
    for each in target.schema.fields:
        if known.get(each.name, each.type) != each.type:
            raise type_mismatch_error(target.name, each.name, known[each.name], each.type)
    if target.renamed.keys() & known:
        return  # missing columns come with the change, in one entry
    added = [each for each in target.schema.fields if each.name not in known]
    if added and not target.add_columns:
        raise InputError(
            f"The table {target.name!r} has no column {added[0].name!r}.", remedy="Leave it out of the rows."
        )
    if added:
        delta.alter.add_columns(added)
        delta.update_incremental()


def _is_done(state: TableState, change: Change) -> bool:
    if state.delta is None or (change.schema is not None and change.schema != state.delta.schema()):
        return False
    now, after = {file.path for file in state.files}, {file.path for file in change.files}
    if not (after <= now and all(file.path in after for file in change.replaced)):
        return False
    return all(state.delta.transaction_version(name) == number for name, number in change.transactions.items())


def _fence(target: Target, state: TableState, change: Change) -> Change:
    """Add the lease's token to a change, as a transaction; LeaseLostError if the table has a later holder's."""
    lease = target.fence
    if lease is None or not lease.token:
        return change
    lease.check()
    name = f"lease {lease.name}"
    seen = None if state.delta is None else state.delta.transaction_version(name)
    if seen is not None and seen > lease.token:
        raise LeaseLostError(
            f"The table {target.name!r} was changed by a later holder of the lease {lease.name!r}.",
            remedy="Nothing was changed. Run again.",
        )
    return replace(change, transactions={**change.transactions, name: lease.token})


def _write_entry(target: Target, state: TableState, change: Change, metadata: Mapping[str, Any]) -> None:
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
        # No retries by delta-rs: these would not read the table again.
        max_commit_retries=0,
        app_transactions=[
            *(Transaction(name, told["state"]) for name, told in change.partitions.items()),
            *(Transaction(name, number, now) for name, number in change.transactions.items()),
        ],
    )
    if state.delta is None:
        _create_table(target, added, properties)
    elif change.schema is not None and change.schema != state.delta.schema():
        # The only mode of delta-rs that changes the columns; it removes all existing files by itself.
        _append_entry(state.delta, added, change.schema, "overwrite", properties)
    else:
        _append_entry(state.delta, [*removed, *added], state.delta.schema(), "append", properties)


def _append_entry(delta: "DeltaTable", actions: list[Any], schema: "Schema", mode: str, properties: Any) -> None:
    columns = delta.metadata().partition_columns
    delta.create_write_transaction(actions, mode, schema, partition_by=columns, commit_properties=properties)


def _create_table(target: Target, added: list[Any], properties: Any) -> None:
    from deltalake.transaction import create_table_with_add_actions

    # delta-rs reads no deletion vectors: no engine is to write any, whatever its defaults.
    configuration = {
        "delta.enableDeletionVectors": "false",
        "delta.enableChangeDataFeed": str(target.change_feed).lower(),
        "delta.enableExpiredLogCleanup": str(not target.keep_log).lower(),
        "delta.logRetentionDuration": "interval 8 days",
        "delta.checkpointInterval": "25",  # each process reads the entries since the last one: 0.3 ms each
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
