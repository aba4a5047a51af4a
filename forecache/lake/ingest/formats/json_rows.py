"""The rows of a file of JSON lines."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from forecache.base.errors import InputError
from forecache.declare import Source
from forecache.lake.ingest.formats.parsed_row import (
    KEPT_BYTES,
    ParsedRow,
    column_names,
    escape_surrogates,
    require_declared_columns,
)
from forecache.lake.ingest.row_count import MAX_ROW_BYTES, read_lines


def json_rows(stream: BinaryIO, source: Source) -> Iterator[ParsedRow]:
    """Yield the rows of a file of JSON lines, each with its line number."""
    names = column_names(source)
    nothing = (None,) * len(names)
    stream.seek(0)
    for number, (line, num_bytes) in enumerate(read_lines(stream), start=1):
        if num_bytes > MAX_ROW_BYTES:
            text = line[:KEPT_BYTES].decode(errors="replace")
            yield ParsedRow(number, nothing, text, f"the line has {num_bytes:,} bytes, more than {MAX_ROW_BYTES:,}")
        elif line.strip():
            text = line.decode().removesuffix("\n").removesuffix("\r")
            try:
                yield ParsedRow(number, _json_values(text, names, source), text)
            except RecursionError:
                yield ParsedRow(number, nothing, text, "bad JSON line: it is nested too deeply")
            except (InputError, ValueError) as error:
                yield ParsedRow(number, nothing, text, f"bad JSON line: {escape_surrogates(str(error))}")


def _json_values(text: str, names: Sequence[str], source: Source) -> tuple[str | None, ...]:
    record = json_record(text)
    require_declared_columns(record, source)
    return tuple(as_text(record[name]) for name in names)


def json_record(text: str) -> dict[str, Any]:
    """Parse a JSON object: top-level numbers stay text as written, those in nested values become numbers.

    Raises:
        InputError, ValueError, RecursionError: The text is not a JSON object, or has a member twice.
    """
    record = json.loads(
        text,
        parse_float=str,
        parse_int=str,
        parse_constant=_refuse_constant,
        object_pairs_hook=_require_distinct_members,
    )
    if not isinstance(record, dict):
        raise InputError("the line is not a JSON object")
    if any(isinstance(value, dict | list) for value in record.values()):
        # Nested values are later stored as JSON text.
        nested = json.loads(text)
        record = {name: nested[name] if isinstance(v, dict | list) else v for name, v in record.items()}
    return record


def _refuse_constant(text: str) -> None:
    raise InputError(f"{text} is not JSON")


def _require_distinct_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"the member {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return record


def as_text(value: Any) -> str | None:
    """A value of `json_record` as text; raises ValueError if it has half of a surrogate pair."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    text.encode()
    return text
