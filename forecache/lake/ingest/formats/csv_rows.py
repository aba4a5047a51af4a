"""The rows of a CSV file."""

import csv
from collections.abc import Iterator
from typing import BinaryIO

from forecache.base.errors import InputError
from forecache.declare import Source
from forecache.lake.ingest.formats.parsed_row import ParsedRow, column_names, require_declared_columns
from forecache.lake.ingest.row_count import read_lines


def csv_rows(stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    """Yield the rows of a CSV file, each with the number of its first line."""
    records = _read_records(stream)
    header = _read_header(records, source)
    order = [header.index(name) for name in column_names(source)]
    nothing = (None,) * len(order)
    for line, text in records:
        if not text:
            continue
        try:
            fields = _split_fields(text)
            if len(fields) != len(header):
                raise InputError(f"the row has {len(fields)} fields, the header {len(header)}")
            yield ParsedRow(line, tuple(fields[i].strip() or None for i in order), text)
        except (InputError, csv.Error) as error:
            reason = str(error) if isinstance(error, InputError) else f"bad CSV row: {error}"
            yield ParsedRow(line, nothing, text, reason)


def require_header(stream: BinaryIO, source: Source) -> None:
    """Raise InputError if the header is not what the source declares."""
    _read_header(_read_records(stream), source)


def _read_header(records: Iterator[tuple[int, str]], source: Source) -> list[str]:
    _, text = next(records, (0, ""))
    if not text:
        raise InputError("the file has no header")
    header = [name.strip() for name in _split_fields(text)]
    require_declared_columns(header, source)
    return header


def _split_fields(text: str) -> list[str]:
    return text.split(",") if '"' not in text else next(csv.reader([text], strict=True))


def _read_records(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield the first line's number and the text of each record, also of blank ones; a quoted field may span lines."""
    stream.seek(0)
    first, parts = 1, list[str]()
    for number, (line, _) in enumerate(read_lines(stream), start=1):
        text = line.decode()
        if (parts or '"' in text) and _ends_in_quotes(text, in_quotes=bool(parts)):
            parts.append(text)
            continue
        text = "".join([*parts, text])
        yield first, text.removesuffix("\n").removesuffix("\r")
        first, parts = number + 1, []


def _ends_in_quotes(line: str, *, in_quotes: bool) -> bool:
    """Return whether a quoted field is open at the line's end; a quote opens a field only as its first character."""
    at = 0
    while True:
        if in_quotes:
            while (at := line.find('"', at)) >= 0 and line.startswith('""', at):
                at += 2
            if at < 0:
                return True
            at = line.find(",", at)
        elif line.startswith('"', at):
            in_quotes, at = True, at + 1
            continue
        else:
            at = line.find(",", at)
        if at < 0:
            return False
        in_quotes, at = False, at + 1
