"""Decodes JSON messages: with orjson if it agrees with the parser of landing files, else with that parser."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from forecache.base.errors import InputError
from forecache.lake.ingest.landing_rows import as_text, escape_surrogates, json_record
from forecache.stream.events.decoder import InvalidMessageError, Texts, record_texts

_MINUS_ZERO = re.compile(rb":\s*-0\s*[,}]")


class JsonDecoder:
    """Reads JSON messages; see `forecache.stream.events.decoder.Decoder`."""

    def __init__(self, topic: Any) -> None:
        self.columns = topic.columns

    def read_record(self, message: bytes) -> Mapping[str, Any] | None:
        try:
            found = orjson.loads(message)
        except ValueError:
            return None
        if type(found) is not dict:
            return None
        # The number of quotes reveals a duplicate member; orjson reads -0 as the integer 0, but as a double it is -0.0.
        texts = sum(type(value) is str for value in found.values())
        if b"\\" in message or message.count(b'"') != 2 * (len(found) + texts) or _MINUS_ZERO.search(message):
            return None
        return found

    def read_texts(self, message: bytes) -> tuple[Texts, bool]:
        try:
            return record_texts(self.columns, json_record(message.decode()), as_text)
        except UnicodeDecodeError:
            raise InvalidMessageError("bad JSON: it is not UTF-8 text") from None
        except RecursionError:
            raise InvalidMessageError("bad JSON: it is nested too deeply") from None
        except (InputError, ValueError) as error:
            raise InvalidMessageError(f"bad JSON: {escape_surrogates(str(error))}") from None
