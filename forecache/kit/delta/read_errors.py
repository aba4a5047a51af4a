"""Errors of delta-rs and Arrow about damaged files, translated to one that names the table, the file and the remedy.

Used in Spark's Python workers too: imports neither settings nor, before an error, deltalake.
"""

import bisect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from forecache.base.errors import DamagedError
from forecache.base.table_names import FEATURES, PREDICTIONS, QUARANTINE, RAW, TILES, TRAINING_SET

if TYPE_CHECKING:
    from forecache.kit.delta.files import Place

LOG = "_delta_log"
_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.(\d{10}))?\.parquet")
_DEEP = "`forecache doctor --deep` names every such file, its table and what to do."
_REMEDIES = (
    (PREDICTIONS, "`forecache run PIPELINE --night NIGHT --rebuild` scores the night again."),
    (FEATURES, "`forecache run PIPELINE --night NIGHT --rebuild` builds the night's features again."),
    (TILES, "Delete the table's folder: the next night that is built makes its tiles again."),
    (TRAINING_SET, "`forecache train PIPELINE` builds the training set again."),
    (RAW, "Restore the file from a copy: what was ingested is not read from the landing zone again."),
    (QUARANTINE, "Restore the file from a copy, or do without: only rows that were set aside are in it."),
    ("", "Restore the file from a copy of the lake."),
)
_SIGNS = (
    "thrift", "parquet", "snappy", "zstd", "decompress", "corrupt", "page", "levels", "encod", "end of stream",
    "histogram", "dictionary", "byte_stream_split",
)  # fmt: skip


def remedy_for(table: str, path: str = "") -> str:
    """The remedy for a damaged file of a table; `path` is relative to the table."""
    if path.startswith(LOG):
        return "Restore the file from a copy of the lake: the table cannot be read or written without it."
    return next(remedy for prefix, remedy in _REMEDIES if table.startswith(prefix))


def damaged_file(path: str, table: str = "") -> DamagedError:
    """The error for a missing or damaged file; `table` is "" if it is not known."""
    kind = "log" if path.startswith(LOG) else "data"
    whose = f" of the table {table!r}" if table else ""
    remedy = f"{remedy_for(table, path)} " if table else ""
    return DamagedError(f"The {kind} file {path}{whose} is missing or damaged.", remedy=f"{remedy}{_DEEP}")


@contextmanager
def open_data_file(filesystem: Any, path: str, table: str) -> Iterator[Any]:
    """Open a data file of a table, which has to exist, while the block runs; DamagedError if it is not Parquet."""
    import pyarrow as pa

    try:
        with filesystem.open_input_file(path) as source:
            yield source
    except (pa.ArrowInvalid, OSError) as error:
        # Arrow raises OSError both for a file that does not decode and for an object store that does not answer.
        is_decoding = isinstance(error, pa.ArrowInvalid) or any(sign in str(error).lower() for sign in _SIGNS)
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) or not is_decoding:
            raise
        raise damaged_file(path, table) from error


@contextmanager
def reading_log(place: "Place", table: str) -> Iterator[None]:
    """Raise DamagedError with the damaged file of a table's log if the block cannot open the table because of it."""
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        yield
    except TableNotFoundError:
        raise
    except (DeltaError, OSError, ValueError) as error:
        damaged = damaged_log_file(place)
        if damaged is None:
            raise
        raise damaged_file(damaged, table) from error


def damaged_log_file(place: "Place") -> str | None:
    """The first file of a table's log that delta-rs cannot read; None if it reads the newest version.

    Entries before the newest checkpoint are not read.
    """
    from deltalake.exceptions import DeltaError

    from forecache.kit.delta.files import list_entries

    try:
        names = [info.path.rpartition("/")[2] for info in list_entries(place.open(), LOG)]
    except OSError:
        return None
    checkpoint, parts = newest_checkpoint(names)
    versions = entries_after(names, checkpoint)

    def is_unreadable(version: int) -> bool:
        from deltalake import DeltaTable

        try:
            DeltaTable(place.uri, version=version, storage_options=dict(place.options) or None).get_add_actions()
        except (DeltaError, ValueError):
            return True
        except OSError:  # for example an object store that does not answer
            return False
        return False

    if parts and is_unreadable(checkpoint):
        return f"{LOG}/{parts[0]}"
    if not versions or not is_unreadable(versions[-1]):
        return None
    first = bisect.bisect_left(versions, True, key=is_unreadable)
    return f"{LOG}/{versions[first]:020d}.json"


def newest_checkpoint(names: "Iterator[str] | list[str]") -> tuple[int, list[str]]:
    """The version of the newest complete checkpoint among a log's files, and its parts' names; -1 and [] if none."""
    found: dict[tuple[int, int], list[str]] = {}
    for name in names:
        if match := _CHECKPOINT.fullmatch(name):
            found.setdefault((int(match[1]), int(match[2] or 1)), []).append(name)
    whole = [(version, sorted(parts)) for (version, count), parts in found.items() if len(parts) == count]
    return max(whole, default=(-1, []))


def entries_after(names: "list[str]", version: int) -> list[int]:
    """The versions after one that have an entry in the log, ascending."""
    entries = (_ENTRY.fullmatch(name) for name in names)
    return sorted(int(entry[1]) for entry in entries if entry and int(entry[1]) > version)
