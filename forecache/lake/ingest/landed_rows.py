"""Rows of landing files on their way into the tables: judged, staged if they have to be compared, and written.

Bad rows, and the good ones of sources whose rows are compared with each other, are first written to this machine's
disk. So memory stays bounded whatever the size of the files.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.kit.delta.files import DataFile, new_path, place_of, retry_write, write_file
from forecache.kit.delta.writers import fit_schema, join_to_groups, new_folder
from forecache.lake.ingest.landing import LandingFile, open_landing, read_checksum, source_uri
from forecache.lake.ingest.repeats import PLACE, StagedFile, StagedRows
from forecache.lake.ingest.typed_files import FileReader, UnreadableFileError
from forecache.lake.ingest.typed_rows import BAD_ROWS, CONTENT, LINE, TEXT, TYPES, RowJudge

if TYPE_CHECKING:
    from deltalake import Schema

Written = tuple["Schema", list[DataFile]]
_MOMENT = pa.timestamp("us", "UTC")
QUARANTINE = pa.schema([
    ("event_day", pa.date32()), ("source_file", pa.string()), (LINE, pa.int64()), ("reason", pa.string()),
    (CONTENT, pa.string()), ("ingested_at", _MOMENT),
])  # fmt: skip


def raw_schema(source: Source) -> pa.Schema:
    """The columns of a source's raw table."""
    columns = [(column.name, TYPES[column.type]) for column in source.columns]
    own = [("event_day", pa.date32()), ("source_file", pa.string()), (LINE, pa.int64()), ("ingested_at", _MOMENT)]
    return pa.schema([*columns, *own])


@dataclass(frozen=True)
class FileResult:
    """Counts of a landing file that was read, or the reason why it is in quarantine as a whole."""

    file: LandingFile
    sha256: str = ""
    counted_rows: int = 0
    good: int = 0
    bad: int = 0
    error: str | None = None
    """Why it is in quarantine as a whole."""

    def refuse(self, reason: str) -> "FileResult":
        return replace(self, counted_rows=0, error=reason, good=0, bad=0)


class LandedRows:
    """The rows of some landing files, to be written to the raw table and to quarantine.

    Args:
        refused: Reasons, by file, for files that are not to be read.
        several: Days with more than one file, in the raw table or among these.
        raw_version: Of the raw table with whose rows of other files they are compared; -1: there is none.
        folder: A folder of this machine for what does not fit memory.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        files: Sequence[LandingFile],
        refused: Mapping[str, str],
        *,
        several: Collection[date],
        raw_version: int,
        now: datetime,
        folder: Path,
    ) -> None:
        self._settings, self._source, self._now, self._folder = settings, source, now, folder
        self._is_state = source.time is not None and bool(source.key)
        self._compares = self._is_state or bool(source.unique)
        self._bad = dict[tuple[str, str], Path]()
        self._staged = dict[str, StagedFile]()
        self._repeats = np.empty(0, np.int64)
        files = sorted(files, key=lambda file: file.name)
        self.results = {file.name: FileResult(file) for file in files}
        for file in files:
            reason = refused.get(file.name)
            if file.day is None and reason is None:
                reason = f"the file name has no day of the source as in {source.file_pattern}"
            if reason is not None:
                self.results[file.name] = FileResult(file, read_checksum(settings, source, file.name)).refuse(reason)
        if self._compares:
            place = 0
            for result in self._readable():
                with suppress(UnreadableFileError):
                    place = self._stage(result, place)
            staged = self._open_staged(raw_version)
            if self._is_state:
                self._refuse_states(staged, several, raw_version)
            elif self._staged:
                self._repeats = staged.find_repeated_rows(list(self.results))

    def write_good(self) -> Written:
        """Write the good rows, one file for each day."""
        from deltalake import Schema

        schema, name = raw_schema(self._source), self._source.raw_table
        fitted = fit_schema(schema, self._settings, name)
        filesystem, folder = place_of(self._settings, name).open(), new_folder()

        def day_of(result: FileResult) -> date:
            return _day_of(result.file)

        written = list[DataFile]()
        for day, results in groupby(sorted(self._readable(), key=day_of), day_of):
            names = [result.file.name for result in results]
            write = partial(self._write_day, filesystem, folder, day, names, fitted)
            write = partial(retry_write, write, is_remote=self._settings.lake_is_remote)
            written += self._write_readable(write, names)
        return Schema.from_arrow(schema), written

    def _write_readable(self, write: Callable[[], DataFile | None], names: Sequence[str]) -> list[DataFile]:
        """Write files; again without those that turned out to be unreadable, as what was written is in no commit.

        Before that the files that were not read yet are, so that those that are unreadable are all known.
        """
        while True:
            with suppress(UnreadableFileError):
                file = write()
                return [] if file is None else [file]
            for result in self._readable():
                if result.file.name in names and not result.sha256:
                    with suppress(UnreadableFileError):
                        for _ in self._read_landed(result.file):
                            pass

    def write_bad(self) -> Written | None:
        """Write the bad rows to quarantine, in one file; None if there are none. `write_good` comes before."""
        from deltalake import Schema

        if not any(result.bad or result.error for result in self.results.values()):
            return None
        name = self._source.quarantine_table
        filesystem, path = place_of(self._settings, name).open(), new_path(new_folder(), {})
        write = partial(_write_tables, filesystem, path, QUARANTINE, lambda: join_to_groups(self._read_bad()))
        file = retry_write(write, is_remote=self._settings.lake_is_remote)
        assert file is not None
        return Schema.from_arrow(QUARANTINE), [file]

    def _readable(self) -> list[FileResult]:
        return [result for result in self.results.values() if result.error is None]

    def _open(self, file: LandingFile) -> Any:
        return open_landing(source_uri(self._settings, self._source), self._settings.storage_options, file.name)

    def _read_good(self, file: LandingFile, bad: "BadRowsFile") -> Iterator[pa.Table]:
        """Yield the good rows of a file from its bytes; the bad ones go to `bad`, and its result to `results`.

        UnreadableFileError, also after the last rows: it is refused.
        """
        judge = RowJudge(self._source, _day_of(file), keeps_content=bool(self._source.unique))
        with self._open(file) as stream:
            reader, good = FileReader(stream, file.name, judge), 0
            try:
                for judged in reader.read_rows():
                    bad.add(judged.bad, file)
                    good += len(judged.good)
                    yield judged.good
            except UnreadableFileError as error:
                self.results[file.name] = FileResult(file, reader.read_checksum()).refuse(str(error))
                raise
            self.results[file.name] = FileResult(file, reader.read_checksum(), reader.num_rows, good, bad.rows)

    def _stage(self, result: FileResult, place: int) -> int:
        """Write the good rows of a file to the disk, with their places from `place` on; returns the next place."""
        file, path = result.file, self._folder / f"staged-{len(self._staged)}.parquet"
        judge = RowJudge(self._source, _day_of(file), keeps_content=bool(self._source.unique))
        schema = judge.schema.append(pa.field(PLACE, pa.int64()))
        with (
            self._open_bad(file, "judged") as bad,
            pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer,
        ):
            for rows in join_to_groups(self._read_good(file, bad)):
                writer.write_table(rows.append_column(schema.field(PLACE), pa.array(np.arange(len(rows)) + place)))
                place += len(rows)
        self._staged[file.name] = StagedFile(file.name, _day_of(file), path, bad.rows)
        return place

    def _open_bad(self, file: LandingFile, why: str) -> "BadRowsFile":
        path = self._bad.setdefault((file.name, why), self._folder / f"bad-{len(self._bad)}.parquet")
        return BadRowsFile(path)

    def _open_staged(self, raw_version: int) -> StagedRows:
        staged = list(self._staged.values())
        return StagedRows(self._settings, self._source, staged, raw_version=raw_version)

    def _refuse_states(self, staged: StagedRows, several: Collection[date], raw_version: int) -> None:
        """Refuse files without a good row, files with a key twice, and then files that are only a part of the state."""
        self._refuse({name: reason for name in self._staged if (reason := self._find_only_bad(name))})
        if self._staged:
            self._refuse(staged.find_repeated_keys())
        if self._staged and several:
            self._refuse(self._open_staged(raw_version).find_partial_files(list(self.results), several))

    def _find_only_bad(self, name: str) -> str:
        """The reason to refuse a file whose rows are all bad, which would be a state without keys; "" for others."""
        if not self._staged[name].bad or pq.read_metadata(self._staged[name].path).num_rows:
            return ""
        with pq.ParquetFile(self._bad[name, "judged"]) as bad:
            first = next(_read_groups(bad)).slice(0, 1).to_pylist()[0]
        return f"none of its rows is good; line {first[LINE]}: {first['reason']}"

    def _refuse(self, reasons: Mapping[str, str]) -> None:
        for name, reason in reasons.items():
            self.results[name] = self.results[name].refuse(reason)
            del self._staged[name]

    def _write_day(
        self, filesystem: Any, folder: str, day: date, names: Sequence[str], fitted: pa.Schema
    ) -> DataFile | None:
        path = new_path(folder, {"event_day": day})
        schema = pa.schema([field for field in fitted if field.name != "event_day"])

        def read() -> Iterator[pa.Table]:
            for result in self._readable():
                if result.file.name in names:
                    for rows in self._read_staged(result) if self._compares else self._read_landed(result.file):
                        yield self._complete(rows, result.file).cast(schema)

        return _write_tables(filesystem, path, schema, lambda: join_to_groups(read()))

    def _complete(self, rows: pa.Table, file: LandingFile) -> pa.Table:
        """The rows with the columns of the raw table, without the partition."""
        columns = [rows[column.name] for column in self._source.columns]
        count = len(rows)
        own = [pa.repeat(file.name, count), rows[LINE], pa.repeat(pa.scalar(self._now, _MOMENT), count)]
        names = [*(column.name for column in self._source.columns), "source_file", LINE, "ingested_at"]
        return pa.table([*columns, *own], names)

    def _read_landed(self, file: LandingFile) -> Iterator[pa.Table]:
        with self._open_bad(file, "judged") as bad:
            yield from self._read_good(file, bad)

    def _read_staged(self, result: FileResult) -> Iterator[pa.Table]:
        """Yield the staged rows of a file that repeat no other; those that do go to the bad ones."""
        reason, file = f"duplicate {', '.join(self._source.unique)}", self._staged[result.file.name]
        good = 0
        with self._open_bad(result.file, "repeats") as bad, pq.ParquetFile(file.path) as staged:
            for rows in _read_groups(staged):
                first = rows[PLACE][0].as_py()  # the places of a group are contiguous, and those of repeats ascending
                low, high = np.searchsorted(self._repeats, [first, first + len(rows)])
                repeats = np.zeros(len(rows), np.bool_)
                repeats[self._repeats[low:high] - first] = True
                if repeats.any():
                    repeated = rows.filter(pa.array(repeats))
                    columns = [repeated[LINE], pa.repeat(reason, len(repeated)), repeated[TEXT]]
                    bad.add(pa.table(columns, schema=BAD_ROWS), result.file)
                    rows = rows.filter(pa.array(~repeats))
                good += len(rows)
                yield rows
        self.results[file.name] = replace(result, good=good, bad=file.bad + bad.rows)

    def _read_bad(self) -> Iterator[pa.Table]:
        errors = [
            (result.file.day, name, 0, result.error, None, self._now)
            for name, result in self.results.items()
            if result.error is not None
        ]
        if errors:
            yield pa.Table.from_pylist([dict(zip(QUARANTINE.names, row, strict=True)) for row in errors], QUARANTINE)
        for (name, _), path in self._bad.items():
            if self.results[name].error is None and path.exists():
                with pq.ParquetFile(path) as bad:
                    for rows in _read_groups(bad):
                        moments = pa.repeat(pa.scalar(self._now, _MOMENT), len(rows))
                        yield rows.append_column(QUARANTINE.field("ingested_at"), moments)


class BadRowsFile:
    """A file of bad rows on this machine's disk, which is made with its first row."""

    _SCHEMA = pa.schema(list(QUARANTINE)[:-1])

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._writer: pq.ParquetWriter | None = None
        path.unlink(missing_ok=True)

    def add(self, rows: pa.Table, file: LandingFile) -> None:
        """Add BAD_ROWS of a landing file."""
        if not rows.num_rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, self._SCHEMA, compression="lz4")
        count = rows.num_rows
        own = [pa.repeat(pa.scalar(file.day, pa.date32()), count), pa.repeat(file.name, count)]
        self._writer.write_table(pa.table([*own, *rows.columns], schema=self._SCHEMA))
        self.rows += count

    def __enter__(self) -> "BadRowsFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _day_of(file: LandingFile) -> date:
    assert file.day is not None, "a file without a day is not readable"
    return file.day


def _write_tables(filesystem: Any, path: str, schema: pa.Schema, read: Any) -> DataFile | None:
    """Write tables, each as a row group; None if they have no rows."""
    filled: Iterable[pa.Table] = (rows for rows in read() if rows.num_rows)
    first = next(iter(filled), None)
    if first is None:
        return None
    # Of columns whose values mostly differ, a dictionary would be built in vain: half of the time of writing.
    alike = [field.name for field in schema if field.type not in (pa.int64(), pa.float64(), _MOMENT)]
    return write_file(filesystem, path, schema, _chain(first, filled), use_dictionary=alike or False)


def _chain(first: pa.Table, rest: Iterable[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def _read_groups(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """Yield row groups with rows one by one: a batch of rows would span them, and have any number of bytes."""
    for group in range(file.num_row_groups):
        if rows := file.read_row_group(group, use_threads=False):
            yield rows
