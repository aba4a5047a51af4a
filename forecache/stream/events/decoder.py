"""Decoders of messages: JSON, and Avro with or without the header of Confluent's wire format."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from forecache.base.errors import InputError, SettingsError
from forecache.declare import Column
from forecache.lake.ingest.parsing import as_text, escape_surrogates, json_record, plain_json_record

Texts = tuple[str | None, ...]
_HEADER = struct.Struct(">bI")
_ANY = -1


class InvalidMessageError(Exception):
    """The message cannot be decoded to an event."""


def record_texts(
    columns: Sequence[Column], record: Mapping[str, Any], as_text: Callable[[Any], str | None]
) -> tuple[Texts, bool]:
    """Return what `JsonDecoder.read_texts` does, from a record; InputError if a required column is absent."""
    for column in columns:
        if column.required and column.name not in record:
            raise InputError(f"the column {column.name!r} is missing")
    known = sum(column.name in record for column in columns)
    return tuple(as_text(record.get(column.name)) for column in columns), len(record) > known


class JsonDecoder:
    """Reads JSON messages of one topic with its declared columns."""

    def __init__(self, topic: Any) -> None:
        self.columns: Sequence[Column] = topic.columns

    def read_record(self, message: bytes) -> Mapping[str, Any] | None:
        """Decode a message to values by name in the types of its format; None if `read_texts` has to judge it."""
        return plain_json_record(message)

    def read_texts(self, message: bytes) -> tuple[Texts, bool]:
        """Decode a message to the texts of its values in the order of the columns; True if it has undeclared members.

        InvalidMessageError if the message cannot be read, or lacks a column that is required.
        """
        try:
            return record_texts(self.columns, json_record(message.decode()), as_text)
        except UnicodeDecodeError:
            raise InvalidMessageError("bad JSON: it is not UTF-8 text") from None
        except RecursionError:
            raise InvalidMessageError("bad JSON: it is nested too deeply") from None
        except (InputError, ValueError) as error:
            raise InvalidMessageError(f"bad JSON: {escape_surrogates(str(error))}") from None


class AvroDecoder:
    """Reads Avro messages, as `JsonDecoder` does; SettingsError if the schema cannot be read, or has other columns."""

    def __init__(self, topic: Any, folder: Path) -> None:
        import fastavro

        self.columns: Sequence[Column] = topic.columns
        self._has_header = topic.format.registry_wire
        self._read = fastavro.schemaless_reader
        declared = topic.format.schema
        self._where = f"The Avro schema of topic {topic.name!r}"
        self._schemas = {
            number: self._parse_schema(schema) for number, schema in self._read_schemas(declared, folder).items()
        }

    def read_record(self, message: bytes) -> Mapping[str, Any] | None:
        try:
            return self._decode(message)
        except InvalidMessageError:
            return None

    def read_texts(self, message: bytes) -> tuple[Texts, bool]:
        return record_texts(self.columns, self._decode(message), _value_text)

    def _decode(self, message: bytes) -> Mapping[str, Any]:
        schema, start = self._schema_of(message)
        stream = BytesIO(message)
        stream.seek(start)
        try:
            found = self._read(stream, schema, None)
        except Exception as error:  # noqa: BLE001  # no bytes may stop a stream
            raise InvalidMessageError(
                f"bad Avro: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from None
        if stream.tell() != len(message):
            raise InvalidMessageError(f"bad Avro: {len(message) - stream.tell()} bytes are left over")
        return cast(Mapping[str, Any], found)

    def _schema_of(self, message: bytes) -> tuple[Any, int]:
        if not self._has_header:
            return self._schemas[_ANY], 0
        if len(message) < _HEADER.size or message[0] != 0:
            raise InvalidMessageError("bad Avro: it has no header of a schema registry")
        number = _HEADER.unpack_from(message)[1]
        schema = self._schemas.get(number, self._schemas.get(_ANY))
        if schema is None:
            raise InvalidMessageError(f"bad Avro: its schema {number} is not declared")
        return schema, _HEADER.size

    def _read_schemas(self, declared: str, folder: Path) -> dict[int, Any]:
        """The schemas by their number; one schema for all messages has the number `_ANY`."""
        try:
            content = json.loads(declared if declared.lstrip().startswith("{") else (folder / declared).read_bytes())
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{self._where} cannot be read: {error}.",
                remedy=f"Give a file below {folder}, or the schema itself as JSON.",
            ) from None
        if isinstance(content, dict) and content and all(name.isdigit() for name in content):
            return {int(name): schema for name, schema in content.items()}
        return {_ANY: content}

    def _parse_schema(self, schema: Any) -> Any:
        import fastavro

        try:
            found = fastavro.parse_schema(schema)
        except Exception as error:
            raise SettingsError(
                f"{self._where} is not valid: {error}.",
                remedy="Correct it: a record, as Avro's specification defines it.",
            ) from error
        if not isinstance(found, dict) or found.get("type") != "record":
            raise SettingsError(f"{self._where} is no record.", remedy="An event is a record with named fields.")
        fields = {field["name"] for field in found["fields"]}
        for column in self.columns:
            if column.required and column.name not in fields:
                raise SettingsError(
                    f"{self._where} lacks the column {column.name!r}, which is required.",
                    remedy="Add it to the schema, or declare the column with required=False.",
                )
        return found


def _value_text(value: Any) -> str | None:
    """The text that the value would have if it were read from a Parquet file."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        at = value.astimezone(timezone.utc) if value.tzinfo else value
        return at.strftime("%Y-%m-%d %H:%M:%S.%f").zfill(26) + ("Z" if value.tzinfo else "")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        import pyarrow as pa

        return str(pa.array([value]).cast(pa.string())[0])
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidMessageError("bad Avro: bytes are not UTF-8 text") from None
    if isinstance(value, (dict, list)):
        raise InvalidMessageError("bad Avro: a value is nested")
    return str(value)
