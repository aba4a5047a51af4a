"""Replacing whole partitions of a table, with optimistic concurrency: a writer replaces only files that it has seen.

A commit names the inputs of the partitions that it writes. If a concurrent run, or one that was killed before it
recorded its work, has already written a partition from the same inputs, its rows are taken over.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.base.steps import look_once
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.log import active_files, group_by_partition, open_if_exists, read_entry

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class TableSnapshot:
    """A table as a writer saw it before its work: files and rows by partition."""

    version: int  # -1: the table did not exist
    files: Mapping[str, frozenset[str]]
    rows: Mapping[str, int]  # negative if the log does not know them


@dataclass(frozen=True)
class PartitionCommit:
    """The commit that last wrote a partition; `inputs` is empty if the commit does not name them."""

    version: int
    run_id: str = ""
    inputs: str = ""
    rows: int = -1


@dataclass(frozen=True)
class ReplaceResult:
    """Result of replacing partitions."""

    versions: Mapping[date, int]  # of the commit that wrote the rows
    taken_over: Mapping[date, str]  # id of the run that had written them from the same inputs

    @property
    def version(self) -> int:
        """The newest of the versions, which has the rows of all the partitions."""
        return max(self.versions.values())


def take_snapshot(settings: Settings, name: str, column: str) -> TableSnapshot:
    """Read the state of a table's partitions; call it before the work whose rows replace some of them."""
    return look_once(("snapshot", settings.table_uri(name)), lambda: _take_snapshot(settings, name, column))


def _take_snapshot(settings: Settings, name: str, column: str) -> TableSnapshot:
    delta = open_if_exists(settings, name)
    if delta is None:
        return TableSnapshot(-1, {}, {})
    partitions = group_by_partition(active_files(delta), column)
    return TableSnapshot(
        delta.version(),
        {key: frozenset(file.path for file in files) for key, files in partitions.items()},
        {key: sum(file.rows for file in files) for key, files in partitions.items()},
    )


def replace_partitions(
    target: Target,
    files: Sequence[DataFile],
    *,
    column: str,
    values: Sequence[date],
    seen: TableSnapshot,
    inputs: Mapping[date, str] | None = None,
    note: Mapping[str, str] | None = None,
) -> ReplaceResult:
    """Replace the files of the partitions `column IN values` by `files`, in one commit; raises also as `commit` does.

    `files` are of these partitions only; some may be in the table already. `seen` is the table before the work began.
    `inputs` determine the rows of each partition; another run's rows from the same inputs are taken over. ConflictError
    if another run, which is named, wrote one from other inputs meanwhile; nothing was written.
    """
    settings, name = target.settings, target.name
    digests = {value: inputs_digest((inputs or {}).get(value, "")) for value in values}
    by_partition = {value: [f for f in files if f.partition.get(column) == value.isoformat()] for value in values}
    taken: dict[date, PartitionCommit] = {}

    def decide(state: TableState) -> Change:
        now = group_by_partition(state.files, column)
        paths = {key: {file.path for file in some} for key, some in now.items()}
        moved = [v for v in values if paths.get(v.isoformat(), set()) != seen.files.get(v.isoformat(), set())]
        since = range(seen.version + 1, state.version + 1)
        writers = _last_commits(settings, name, column, {value.isoformat() for value in moved}, since)
        taken.clear()
        for value in moved:
            writer = writers.get(value.isoformat())  # None: only a compaction
            if writer is not None and (not digests[value] or writer.inputs != digests[value]):
                raise _overtaken_error(name, column, value, writer)
            if writer is not None:
                taken[value] = writer
        ours = [value for value in values if value not in taken]
        return Change(
            files=[file for value in ours for file in by_partition[value]],
            replaced=[file for value in ours for file in now.get(value.isoformat(), ())],
            partitions={
                f"{column}={value.isoformat()}": {
                    "inputs": digests[value],
                    "rows": sum(file.rows for file in by_partition[value]),
                    "state": _transaction_version(digests[value]),
                }
                for value in ours
            },
        )

    version = commit(target, decide, note=note)
    return ReplaceResult(
        {value: taken[value].version if value in taken else version for value in values},
        {value: writer.run_id for value, writer in taken.items()},
    )


def find_committed_partitions(
    settings: Settings, name: str, *, column: str, inputs: Mapping[date, str]
) -> dict[date, PartitionCommit]:
    """Find the partitions whose rows were last written from these inputs, each with the commit that wrote them."""
    delta = open_if_exists(settings, name) if inputs else None
    if delta is None:
        return {}
    wanted = {
        value.isoformat(): inputs_digest(text)
        for value, text in inputs.items()
        if was_written_from(delta, column, value, text)
    }
    writers = _last_commits(settings, name, column, set(wanted), range(delta.version() + 1))
    rows = {
        key: sum(file.rows for file in some) for key, some in group_by_partition(active_files(delta), column).items()
    }
    return {
        date.fromisoformat(key): writer
        for key, writer in writers.items()
        if writer.inputs == wanted[key] and writer.rows == rows.get(key, 0)
    }


def was_written_from(delta: "DeltaTable", column: str, value: date, inputs: str) -> bool:
    """Return whether a table's snapshot names these inputs for a partition; its rows may have been changed since."""
    return bool(
        delta.transaction_version(f"{column}={value.isoformat()}") == _transaction_version(inputs_digest(inputs))
    )


def inputs_digest(inputs: str) -> str:
    """Digest of inputs as it stands in a commit, 16 hex digits; "" for empty inputs."""
    return hashlib.sha256(inputs.encode()).hexdigest()[:16] if inputs else ""


def _transaction_version(inputs: str) -> int:
    """Version of the partition's Delta transaction for a digest of inputs; every snapshot of the table has it."""
    return int(inputs[:15] or "0", 16)


def _last_commits(
    settings: Settings, name: str, column: str, wanted: set[str], versions: range
) -> dict[str, PartitionCommit]:
    """By partition, the last of these versions that changed its rows; partitions that none changed are left out."""
    found: dict[str, PartitionCommit] = {}
    filesystem = place_of(settings, name).open()
    for version in reversed(versions):
        missing = wanted - set(found)
        if not missing:
            break
        try:
            actions = read_entry(filesystem, version, name)
        except FileNotFoundError:
            return found | dict.fromkeys(missing, PartitionCommit(version))
        found |= {key: writer for key, writer in _commits_in_entry(actions, column, version) if key in missing}
    return found


def _commits_in_entry(
    actions: Sequence[Mapping[str, Any]], column: str, version: int
) -> Iterator[tuple[str, PartitionCommit]]:
    info: Mapping[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    run_id = str(info.get("run_id", ""))
    for action in actions:
        change = action.get("add") or action.get("remove")
        if change and change.get("dataChange"):
            yield str((change.get("partitionValues") or {}).get(column)), PartitionCommit(version, run_id)
    for key, told in (info.get("partitions") or {}).items():
        yield key.removeprefix(f"{column}="), PartitionCommit(version, run_id, told["inputs"], told["rows"])


def _overtaken_error(name: str, column: str, value: date, writer: PartitionCommit) -> ConflictError:
    who = f"Run {writer.run_id!r}" if writer.run_id else "Another writer"
    return ConflictError(
        f"{who} was faster: it changed {column} {value} of the table {name!r} in version {writer.version}.",
        remedy="Run again when it has ended.",
    )
