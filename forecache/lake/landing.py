"""The landing zone: which files are there, which days they are for, and their rows as text with line numbers.

Parsing turns every file into rows of strings and leaves types to Spark, so that a value that does not fit its type
is a row in quarantine and not a failed job. `parse_files` runs in Spark's workers and imports nothing of Spark.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from forecache.errors import InputError
from forecache.pipeline import Source
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

_ROWS_PER_BATCH = 20_000


@dataclass(frozen=True)
class LandingFile:
    """One file of a source; `day` is None where its name has none."""

    name: str
    day: date | None
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True)
class ParsedRow:
    """One row of a landing file. Line 0 is about the file itself: its checksum, or why it cannot be read."""

    line: int
    values: tuple[str | None, ...]
    content: str | None = None
    error: str | None = None
    sha256: str | None = None


def file_system(uri: str, storage_options: dict[str, str]) -> "FileSystem":
    """An Arrow file system rooted at a folder or object store URI, through delta-rs's object store."""
    from deltalake.fs import DeltaStorageHandler
    from pyarrow import fs

    return fs.PyFileSystem(DeltaStorageHandler(uri, storage_options or None))


def source_uri(settings: Settings, source: Source) -> str:
    return f"{settings.landing_uri}/{source.name}"


def list_landing(settings: Settings, source: Source) -> list[LandingFile]:
    """The source's files by name. Names that start with "." or "_" are still being written, or are markers: ignored."""
    from pyarrow import fs

    uri = source_uri(settings, source)
    if "://" not in uri:
        from pathlib import Path

        Path(uri).mkdir(parents=True, exist_ok=True)
    selector = fs.FileSelector("", recursive=True, allow_not_found=True)
    found = file_system(uri, settings.storage_options).get_file_info(selector)
    files = [
        LandingFile(info.path, file_day(source, info.path), info.size, info.mtime)
        for info in found
        if info.type == fs.FileType.File and not info.base_name.startswith((".", "_"))
    ]
    return sorted(files, key=lambda file: file.name)


def file_day(source: Source, name: str) -> date | None:
    """The day that a file's name says it is for, None where it says none or one outside the source's dates."""
    match = re.search(source.file_pattern + r"$", name)
    try:
        day = date.fromisoformat(match["day"]) if match else None
    except ValueError:
        return None
    if day is None or day < source.start or (source.end and day > source.end):
        return None
    return day


def read_checksum(settings: Settings, source: Source, name: str) -> str:
    """SHA-256 of a landing file's bytes."""
    with file_system(source_uri(settings, source), settings.storage_options).open_input_stream(name) as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def parse_files(
    batches: Iterable["pa.RecordBatch"], *, uri: str, storage_options: dict[str, str], source: Source
) -> Iterator["pa.RecordBatch"]:
    """Rows of the files named in the batches' `source_file` column; see `parsed_columns` for what comes out."""
    import pyarrow as pa

    names = parsed_columns(source)
    files = file_system(uri, storage_options)
    buffer: list[tuple[Any, ...]] = []

    def flush() -> "pa.RecordBatch":
        columns = list(zip(*buffer, strict=True))
        buffer.clear()
        types = [pa.int64() if name == "source_line" else pa.string() for name in names]
        return pa.record_batch([pa.array(c, t) for c, t in zip(columns, types, strict=True)], names=names)

    for batch in batches:
        for name in batch.column("source_file").to_pylist():
            with files.open_input_stream(name) as stream:
                content = stream.read()
            for row in parse_file(name, content, source):
                buffer.append((name, row.line, row.content, row.error, row.sha256, *row.values))
                if len(buffer) >= _ROWS_PER_BATCH:
                    yield flush()
    if buffer:
        yield flush()


def parsed_columns(source: Source) -> list[str]:
    """Columns of `parse_files`: source_file, source_line (int64), and as strings the rest."""
    return [
        "source_file",
        "source_line",
        "content",
        "error",
        "sha256",
        *(column.name for column in source.columns),
    ]


def parse_file(name: str, content: bytes, source: Source) -> Iterator[ParsedRow]:
    """Line 0, about the file, and then its rows in order; an unreadable file has a line 0 with an error only."""
    nothing = (None,) * len(source.columns)
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        if not content:
            raise InputError("the file is empty")
        if file_day(source, name) is None:
            raise InputError(f"the file name has no day of the source as in {source.file_pattern}")
        rows = list(_reader(name)(content, source))
    except (InputError, UnicodeDecodeError, csv.Error, OSError, ValueError) as error:
        yield ParsedRow(0, nothing, error=str(error), sha256=sha256)
        return
    yield ParsedRow(0, nothing, sha256=sha256)
    yield from rows


def _reader(name: str) -> Any:
    readers = {"csv": _read_csv, "jsonl": _read_json_lines, "parquet": _read_parquet}
    suffix = name.rsplit(".", 1)[-1]
    if suffix not in readers:
        raise InputError(f"the format .{suffix} is not one of {', '.join(readers)}")
    return readers[suffix]


def _check_columns(found: Iterable[str], source: Source) -> None:
    names = [column.name for column in source.columns]
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(f"the column {missing[0]!r} is missing")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(f"the column {unknown[0]!r} is not declared by source {source.name!r}")


def _read_csv(content: bytes, source: Source) -> Iterator[ParsedRow]:
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    header = [name.strip() for name in next(reader)]
    _check_columns(header, source)
    order = [header.index(column.name) for column in source.columns]
    line = reader.line_num + 1
    for fields in reader:
        if fields:
            text = ",".join(fields)
            if len(fields) == len(header):
                yield ParsedRow(line, tuple(fields[i].strip() or None for i in order), text)
            else:
                error = f"the row has {len(fields)} fields, the header {len(header)}"
                yield ParsedRow(line, (None,) * len(order), text, error)
        line = reader.line_num + 1


def _read_json_lines(content: bytes, source: Source) -> Iterator[ParsedRow]:
    names = [column.name for column in source.columns]
    for line, text in enumerate(content.decode("utf-8-sig").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text, parse_float=str, parse_int=str)
            if not isinstance(record, dict):
                raise InputError("the line is not a JSON object")
            _check_columns([*dict.fromkeys([*record])], source)
        except (json.JSONDecodeError, InputError) as error:
            yield ParsedRow(line, (None,) * len(names), text, f"bad JSON line: {error}")
            continue
        yield ParsedRow(line, tuple(_as_text(record[name]) for name in names), text)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _read_parquet(content: bytes, source: Source) -> Iterator[ParsedRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [column.name for column in source.columns]
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"not a readable Parquet file: {str(error).splitlines()[0]}") from None
    _check_columns(table.column_names, source)
    texts = [table.column(name).cast(pa.string()).to_pylist() for name in names]
    for line, values in enumerate(zip(*texts, strict=True), start=1):
        yield ParsedRow(line, values, ",".join("" if value is None else value for value in values))
