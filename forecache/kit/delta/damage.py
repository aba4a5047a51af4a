"""Missing or damaged files of Delta tables, with table and remedy: found by reading them all, or in an error."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from forecache.base.errors import DamagedError, ForecacheError, chain_of
from forecache.base.settings import Settings
from forecache.kit.delta.errors import LOG, damaged_file, remedy_for
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import damaged_log_file, read_actions
from forecache.kit.delta.tables import open_table, table_names

_SENTENCE = re.compile(r"The (?:log|data) file (\S+) of the table '([^']+)' is missing or damaged")
_FILE = re.compile(
    r"(?:([A-Za-z][A-Za-z0-9_]*)/)?((?:written-[0-9a-f]+/)?"
    r"(?:[A-Za-z0-9_]+(?:=|%3D)[^/\s'\"]*/)*[^/\s'\"=]+\.parquet)"
)
_SIGNS = (
    "no such file", "not found", "filenotfound", "does not exist", "failed_read_file", "parquet magic", "corrupt",
    "invalid parquet", "not a parquet file", "could not read", "couldn't deserialize", "unexpected end", "eof",
    "external error", "kernel error", "snappy", "thrift", "decompress", "footer", "page", "parquet file size",
)  # fmt: skip


@dataclass(frozen=True)
class DamagedFile:
    """A data file of a table that cannot be read as the table's log describes it; `path` is relative to the table."""

    table: str
    path: str
    problem: str

    @property
    def remedy(self) -> str:
        return remedy_for(self.table, self.path)


def find_damaged_files(settings: Settings) -> Iterator[DamagedFile]:
    """Read every data file of the newest version of every table; yield those that differ from the log.

    A changed byte that still decodes to another value is not found: Delta's log has no checksums.
    """
    for name in table_names(settings):
        yield from _find_damage_in_table(settings, name)


def _find_damage_in_table(settings: Settings, name: str) -> Iterator[DamagedFile]:
    from deltalake.exceptions import DeltaError

    try:
        table = open_table(settings, name)
        actions = read_actions(table).select(["path", "size_bytes", "num_records"])
    except (ForecacheError, DeltaError, OSError) as error:
        path = damaged_log_file(place_of(settings, name)) or LOG
        yield DamagedFile(name, path, f"The log cannot be read: {_one_line(error)}.")
        return
    files = place_of(settings, name).open()
    for action in actions.to_pylist():
        problem = _find_problem(files, unquote(action["path"]), action["size_bytes"], action["num_records"])
        if problem:
            yield DamagedFile(name, action["path"], problem)


def _find_problem(files: "object", path: str, size_bytes: int, rows: int | None) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with files.open_input_file(path) as file:  # type: ignore[attr-defined]
            if file.size() != size_bytes:
                return f"It has {file.size():,} bytes where the log says {size_bytes:,}."
            read = sum(batch.num_rows for batch in pq.ParquetFile(file).iter_batches())
    except FileNotFoundError:
        return "It is missing."
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"It cannot be read: {_one_line(error)}."
    return "" if rows in (None, read) else f"It has {read:,} rows where the log says {rows:,}."


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def as_damaged_error(error: BaseException) -> DamagedError | None:
    """Translate an error of Spark, Arrow or delta-rs about a file of a table; None for any other."""
    for each in chain_of(error):
        text = str(each)
        if (known := _SENTENCE.search(text)) is not None:  # raised in a Spark worker
            return damaged_file(known[1], known[2])
        found = _FILE.search(text)
        if found is not None and any(sign in text.lower() for sign in _SIGNS):
            table, path = found.groups()
            return damaged_file(path, table or "")
    return None
