"""Partitions of a table that are replaced as a whole: each by one writer, who has seen what was there before.

A commit names the inputs of the partitions that it writes. By them a run that comes second, at the same time or after
one that was killed before it could say so anywhere else, knows the rows that it would write: it takes them over.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.errors import ConflictError
from forecache.lake.delta.commit import Change, State, Target, commit
from forecache.lake.delta.files import DataFile, place_of
from forecache.lake.delta.log import active_files, grouped, open_if_exists, read_entry
from forecache.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class Seen:
    """A table as a writer saw it before its work.

    Attributes:
        version: -1: there was none.
        files, rows: By partition; rows are negative where the log does not know them.
    """

    version: int
    files: Mapping[str, frozenset[str]]
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Writer:
    """The commit that last wrote a partition; `inputs` is empty where it does not say from what."""

    version: int
    run_id: str = ""
    inputs: str = ""
    rows: int = -1


@dataclass(frozen=True)
class Committed:
    """What became of the partitions that were to be replaced.

    Attributes:
        versions: By partition, the Delta version of the commit that wrote the rows.
        taken_over: Partitions that another run had written from the same inputs, and that run's id.
    """

    versions: Mapping[date, int]
    taken_over: Mapping[date, str]

    @property
    def version(self) -> int:
        """The newest of the versions, which holds all the rows."""
        return max(self.versions.values())


def look(settings: Settings, name: str, column: str) -> Seen:
    """The state of a table's partitions; call it before the work that is to replace some of them."""
    delta = open_if_exists(settings, name)
    if delta is None:
        return Seen(-1, {}, {})
    partitions = grouped(active_files(delta), column)
    return Seen(
        delta.version(),
        {key: frozenset(map(_path, files)) for key, files in partitions.items()},
        {key: sum(file.rows for file in files) for key, files in partitions.items()},
    )


def replace_partitions(
    target: Target,
    files: Sequence[DataFile],
    *,
    column: str,
    values: Sequence[date],
    seen: Seen,
    inputs: Mapping[date, str] | None = None,
    note: Mapping[str, str] | None = None,
) -> Committed:
    """Let the partitions `column IN values` consist of the files, in one commit.

    Args:
        files: Of these partitions only; some may be in the table already.
        seen: The table as it was before the work began.
        inputs: What decides the rows of each partition; another run's rows from the same inputs are taken over.

    Raises:
        ConflictError: Another run wrote a partition from other inputs meanwhile; its id is named. Nothing was written.
        Others as `forecache.lake.delta.commit.commit` does.
    """
    settings, name = target.settings, target.name
    digests = {value: digest((inputs or {}).get(value, "")) for value in values}
    by_partition = {value: [f for f in files if f.partition.get(column) == value.isoformat()] for value in values}
    taken: dict[date, Writer] = {}

    def decide(state: State) -> Change:
        now = grouped(state.files, column)
        moved = [
            v for v in values if set(map(_path, now.get(v.isoformat(), ()))) != seen.files.get(v.isoformat(), set())
        ]
        since = range(seen.version + 1, state.version + 1)
        writers = _last_writers(settings, name, column, {value.isoformat() for value in moved}, since)
        taken.clear()
        for value in moved:
            writer = writers.get(value.isoformat())  # None: only compacted
            if writer is not None and (not digests[value] or writer.inputs != digests[value]):
                raise _faster(name, column, value, writer)
            if writer is not None:
                taken[value] = writer
        ours = [value for value in values if value not in taken]
        return Change(
            files=[file for value in ours for file in by_partition[value]],
            replaced=[file for value in ours for file in now.get(value.isoformat(), ())],
            partitions={f"{column}={value.isoformat()}": _told(by_partition[value], digests[value]) for value in ours},
        )

    version = commit(target, decide, note=note)
    return Committed(
        {value: taken[value].version if value in taken else version for value in values},
        {value: writer.run_id for value, writer in taken.items()},
    )


def find_committed(settings: Settings, name: str, *, column: str, inputs: Mapping[date, str]) -> dict[date, Writer]:
    """The partitions whose rows were last written from these inputs, and by which commit."""
    delta = open_if_exists(settings, name) if inputs else None
    if delta is None:
        return {}
    wanted = {
        value.isoformat(): digest(text)
        for value, text in inputs.items()
        if was_written_from(delta, column, value, text)
    }
    writers = _last_writers(settings, name, column, set(wanted), range(delta.version() + 1))
    rows = {key: sum(file.rows for file in some) for key, some in grouped(active_files(delta), column).items()}
    return {
        date.fromisoformat(key): writer
        for key, writer in writers.items()
        if writer.inputs == wanted[key] and writer.rows == rows.get(key, 0)
    }


def was_written_from(delta: "DeltaTable", column: str, value: date, inputs: str) -> bool:
    """Whether a snapshot of a table names these inputs as those of a partition; it may have been changed since."""
    return bool(delta.transaction_version(f"{column}={value.isoformat()}") == _state(digest(inputs)))


def digest(inputs: str) -> str:
    """How a commit names inputs; empty for none."""
    return hashlib.sha256(inputs.encode()).hexdigest()[:16] if inputs else ""


def _told(files: Sequence[DataFile], inputs: str) -> dict[str, Any]:
    return {"inputs": inputs, "rows": sum(file.rows for file in files), "state": _state(inputs)}


def _state(inputs: str) -> int:
    """The inputs as the version of the partition's transaction identifier, which every snapshot of the table holds."""
    return int(inputs[:15] or "0", 16)


def _path(file: DataFile) -> str:
    return file.path


def _last_writers(settings: Settings, name: str, column: str, wanted: set[str], versions: range) -> dict[str, Writer]:
    """By partition, the last of these versions that changed its rows; none for one that no version did."""
    found: dict[str, Writer] = {}
    filesystem = place_of(settings, name).open()
    for version in reversed(versions):
        missing = wanted - set(found)
        if not missing:
            break
        try:
            actions = read_entry(filesystem, version, name)
        except FileNotFoundError:
            return found | dict.fromkeys(missing, Writer(version))
        found |= {key: writer for key, writer in _writers(actions, column, version) if key in missing}
    return found


def _writers(actions: Sequence[Mapping[str, Any]], column: str, version: int) -> Iterator[tuple[str, Writer]]:
    info: Mapping[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    run_id = str(info.get("run_id", ""))
    for action in actions:
        change = action.get("add") or action.get("remove")
        if change and change.get("dataChange"):
            yield str((change.get("partitionValues") or {}).get(column)), Writer(version, run_id)
    for key, told in (info.get("partitions") or {}).items():
        yield key.removeprefix(f"{column}="), Writer(version, run_id, told["inputs"], told["rows"])


def _faster(name: str, column: str, value: date, writer: Writer) -> ConflictError:
    who = f"Run {writer.run_id!r}" if writer.run_id else "Another writer"
    return ConflictError(
        f"{who} was faster: it changed {column} {value} of the table {name!r} in version {writer.version}.",
        remedy="Run again when it has ended.",
    )
