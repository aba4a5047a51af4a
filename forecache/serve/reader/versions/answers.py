"""Answers from one open version, assembled from bytes that are made once per version or once per second."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import orjson

from forecache.base.errors import InputError
from forecache.base.table_names import list_names
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem, bad_request, quote_value
from forecache.serve.reader.versions.live_layers import OpenLayer
from forecache.serve.reader.worker_metrics import HITS, STALE_HITS
from forecache.serve.store import (
    KeySchema,
    Manifest,
    Provenance,
    encode_key,
    parse_key,
    split_entry,
)
from forecache.serve.store.keys import MAX_KEY_BYTES
from forecache.serve.store.values import cut_lists, json_renderer, rows_of

_PLAIN_INTEGER = re.compile(r"0|-?[1-9]\d{0,18}")


class RequestKeys:
    """Encodes keys of one schema. `encode(text)` returns the bytes of a key in a path, and raises as `encode_value`."""

    def __init__(self, schema: KeySchema) -> None:
        self._schema = schema
        self._takes_text = [column.type for column in schema.columns] == ["string"]
        self.encode = _text_encoder(schema)

    def encode_values(self, values: Sequence[object]) -> list[bytes]:
        """Key bytes of the keys in a JSON body, in their order; raises as `encode_value`."""
        if self._takes_text and values:
            # Plain text, the common case, is checked and encoded for all keys together.
            try:
                text = "\n".join(values)  # type: ignore[arg-type]
            except TypeError:
                return list(map(self.encode_value, values))
            if text.isascii():
                keys = text.encode().split(b"\n")
                lengths = set(map(len, keys))
                if len(keys) == len(values) and min(lengths) > 0 and max(lengths) <= MAX_KEY_BYTES:
                    return keys
        return list(map(self.encode_value, values))

    def encode_value(self, value: object) -> bytes:
        """Key bytes of a key in a JSON body, text as in a URL or an integer; raises InputError for any other."""
        if type(value) is str:
            return self.encode(value)
        if type(value) is int:
            return encode_key(self._schema, value)
        shown = json.dumps(value, ensure_ascii=False)
        raise InputError(
            f"The key {shown[:60]}{'...' * (len(shown) > 60)} is not text or an integer.",
            remedy="Write a key of several parts as text, with '|' between them.",
        )


def _text_encoder(schema: KeySchema) -> Callable[[str], bytes]:
    """A faster `parse_key` for keys of this schema, which handles common cases first."""

    def encode_any(text: str) -> bytes:
        return parse_key(schema, text)

    def encode_string(text: str) -> bytes:
        # A surrogate cannot be encoded; parse_key raises the error for it.
        key = text.encode("utf-8", "surrogatepass")
        return key if 0 < len(key) <= MAX_KEY_BYTES and text.isascii() else parse_key(schema, text)

    def encode_integer(text: str) -> bytes:
        return text.encode() if _PLAIN_INTEGER.fullmatch(text) else parse_key(schema, text)

    if len(schema.columns) > 1:
        return encode_any
    return {"string": encode_string, "int": encode_integer}.get(schema.columns[0].type, encode_any)


class Version(Protocol):
    """An open version: `Snapshot`, or one in Redis."""

    manifest: Manifest

    @property
    def get_entry(self) -> Callable[[bytes], bytes | None]: ...

    @property
    def get_entries(self) -> Callable[[Sequence[bytes]], list[bytes | None]]: ...

    @property
    def mapped_bytes(self) -> int: ...

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]: ...

    def warm(self) -> int: ...

    def close(self) -> None: ...


Headers = tuple[tuple[str, str], ...]
JSON = "application/json"
_NEWLINE = ord("\n")
_START, _END, _NEXT = b'{"key":"', b"}", b'},{"key":"'
_FOUND, _NOT_FOUND = b'","found":true,"value":', b'","found":false'


class VersionAnswers:
    """Answers from an open version.

    Members that change with time (age, stale, the header with the ETag) are made each second: callers call
    `refresh(now)` unless `valid_from <= now < valid_until`, which also covers a clock that is set back.
    """

    def __init__(self, snapshot: Version, *, offset: int = 0, fallback_for: int | None = None) -> None:
        manifest = snapshot.manifest
        self.snapshot = snapshot
        self.manifest = manifest
        self.offset = offset  # first metrics cell of the pipeline
        self.found_cell = offset + HITS
        self.fallback_for = fallback_for  # the damaged version that this one replaces
        self.layer: OpenLayer | None = None
        self.fields = frozenset(manifest.field_names)
        self.keys = RequestKeys(manifest.key)
        self.encode = self.keys.encode
        self.get_entry = snapshot.get_entry
        self.get_entries = snapshot.get_entries
        if manifest.is_packed:
            self._render_packed(snapshot, json_renderer(manifest.fields))
        self.carried = bool(manifest.carried)
        self._age_from = manifest.as_of_end.timestamp()
        self._stale_from = manifest.stale_after.timestamp()
        self._common = _version_members(manifest, fallback_for, manifest.provenance)
        own = manifest.provenances.items()
        self._own = {name: _version_members(manifest, fallback_for, each) for name, each in own}
        self._streamed_at = {
            name: datetime.fromisoformat(each.scored_at.replace("Z", "+00:00")) for name, each in own if each.as_of
        }
        self.valid_from = self.valid_until = 0.0
        self.headers: Headers = ()
        self.etag = ""  # weak, because the age in the body changes while the version does not
        self.refused = False  # too old to be served under its policy
        self.stale = False
        self.age_s = 0
        self._moment = b""
        self.tail = b""
        self.refresh(0.0)

    def _render_packed(self, snapshot: Version, json_of: Callable[[bytes], bytes]) -> None:
        """Convert the entries of a packed version to JSON when they are read."""
        get_entry, get_entries = snapshot.get_entry, snapshot.get_entries

        def entry(key: bytes) -> bytes | None:
            found = get_entry(key)
            return None if found is None else json_of(found)

        self.get_entry = entry
        self.get_entries = lambda keys: [None if found is None else json_of(found) for found in get_entries(keys)]

    def refresh(self, now: float) -> None:
        """Make the parts of answers that are valid for the second of `now` (Unix time)."""
        manifest = self.manifest
        second = int(now)
        past = second >= self._stale_from
        self.valid_from, self.valid_until = float(second), second + 1.0
        self.age_s = max(0, int(second - self._age_from))
        self.stale = past and manifest.policy.on_stale != "serve"
        self.refused = past and manifest.policy.on_stale == "refuse"
        self.found_cell = self.offset + (STALE_HITS if self.stale else HITS)
        state = ("-fallback" if self.fallback_for is not None else "") + ("-stale" if self.stale else "")
        etag = f'W/"{manifest.pipeline}-{manifest.version}-{manifest.store[:8]}{state}"'
        if etag != self.etag:
            self.etag = etag
            self.headers = (("content-type", JSON), ("etag", etag), ("cache-control", "no-cache"))
        self._moment = b'"age_s":%d,"stale":%s}' % (self.age_s, b"true" if self.stale else b"false")
        self.tail = b"," + self._common + self._moment

    def check_age(self) -> None:
        if self.refused:
            manifest = self.manifest
            raise Problem(
                problems.STALE,
                f"Version {manifest.version} of {manifest.pipeline} is as of {manifest.as_of}, older than the "
                f"{manifest.policy.max_age_h:g} h that its declaration allows; publish a newer as-of date.",
                headers=[("retry-after", "60")],
                members={"store_version": manifest.version, "as_of": manifest.as_of, "age_s": self.age_s},
            )

    def one(self, key: bytes, fields: Sequence[str] = (), limit: int = 0) -> bytes | None:
        """The answer for one key as JSON, None if the version does not have it; no `fields` and no `limit` mean all."""
        entry = self.get_entry(key)
        if entry is None:
            return None
        tail = self.tail
        if self.carried and _NEWLINE in entry:
            entry, own = self._split_provenance(entry)
            tail = b"," + own + self._moment
        if limit:
            entry = cut_lists(entry, limit)
        if fields:
            entry = select_fields(entry, fields)
        return b"".join((b'{"key":', orjson.dumps(key.decode()), b',"value":', entry, tail))

    def many(self, keys: Sequence[bytes], fields: Sequence[str] = (), limit: int = 0) -> tuple[bytes, int]:
        """The answer for several keys in their order as JSON, and how many were found; arguments as for `one`."""
        if not keys:
            return b'{"results":[],' + self._common + self._moment, 0
        return self._join_answers(keys, self.get_entries(keys), {}, fields, limit)

    def _join_answers(
        self, keys: Sequence[bytes], entries: list[Any], own: Mapping[int, bytes], fields: Sequence[str], limit: int
    ) -> tuple[bytes, int]:
        """The answer for several keys from their entries.

        `own` has, by place, the members of answers that differ from the version's, each with the brace that ends it.
        """
        # The rows are four columns that are joined in one call, which is as fast as copying their bytes.
        count, missing = len(keys), entries.count(None)
        marks, ends = [_FOUND] * count, [_NEXT] * count
        if missing:
            for place, entry in enumerate(entries):
                if entry is None:
                    marks[place], entries[place] = _NOT_FOUND, b""
        if self.carried:
            for place, entry in enumerate(entries):
                if _NEWLINE in entry:
                    entries[place], members = self._split_provenance(entry)
                    ends[place] = b"," + members[:-1] + _NEXT
        for place, members in own.items():
            ends[place] = b"," + members[:-1] + _NEXT
        if limit:
            entries = [cut_lists(entry, limit) if entry else entry for entry in entries]
        if fields:
            entries = [select_fields(entry, fields) if entry else entry for entry in entries]
        parts: list[bytes] = [b""] * (4 * count)
        parts[::4], parts[1::4], parts[2::4], parts[3::4] = _json_texts(keys), marks, entries, ends
        parts[-1] = ends[-1].removesuffix(_NEXT) + _END
        parts.insert(0, b'{"results":[' + _START)
        parts += b"],", self._common, self._moment
        return b"".join(parts), count - missing

    def rows(self, keys: Sequence[bytes]) -> list[dict[str, Any] | None]:
        """The decoded values of several keys; None for a missing key."""
        if self.manifest.is_packed:
            return rows_of(self.snapshot.get_entries(keys), self.manifest.fields)
        # All values are parsed together: a call for each would cost as much as its few numbers.
        values = [b"null" if value is None else value for value in self.snapshot.get_many(keys)]
        found: list[dict[str, Any] | None] = orjson.loads(b"[%b]" % b",".join(values))
        return found

    def dated_rows(self, keys: Sequence[bytes]) -> tuple[list[dict[str, Any] | None], list[datetime]]:
        """As `rows`, and the time of each: the end of its as-of date (UTC), or the hour of a stream's computation."""
        return self.rows(keys), self.moments(keys)

    def moments(self, keys: Sequence[bytes]) -> list[datetime]:
        """The time of each key's row in the version, as of `dated_rows`."""
        found = [self.manifest.as_of_end] * len(keys)
        for place, entry in enumerate(self.get_entries(keys) if self._streamed_at else ()):
            if entry is not None and _NEWLINE in entry:
                found[place] = self._streamed_at.get(split_entry(entry)[1], found[place])
        return found

    def not_found_problem(self, key: str) -> Problem:
        version, as_of = self.manifest.version, self.manifest.as_of
        detail = f"The key {quote_value(key)} is not in version {version} of {self.manifest.pipeline}, as of {as_of}."
        return Problem(problems.NO_KEY, detail, members={"key": key, "store_version": version, "as_of": as_of})

    def check_fields(self, fields: Sequence[str]) -> None:
        for field in fields:
            if field not in self.fields:
                known = list_names(self.manifest.field_names)
                raise bad_request(f"{self.manifest.pipeline} has no field {quote_value(field)}; it serves {known}.")

    def _split_provenance(self, entry: bytes) -> tuple[bytes, bytes]:
        """The value of an entry that names its own provenance in a second line, and that provenance's members."""
        value, provenance = split_entry(entry)
        return value, self._own[provenance]


def _json_texts(keys: Sequence[bytes]) -> Sequence[bytes]:
    """The keys (at least one) as the content of JSON strings, without the quotes."""
    if b"".join(keys).isalnum():
        return keys
    # Inside a JSON string a quote follows a backslash, so that the bytes `","` always separate two strings.
    return orjson.dumps(list(map(bytes.decode, keys)))[2:-2].split(b'","')


def select_fields(value: bytes, fields: Sequence[str]) -> bytes:
    """Return only the named members of a JSON object, in that order."""
    row = orjson.loads(value)
    return orjson.dumps({field: row[field] for field in fields})


def _version_members(manifest: Manifest, fallback_for: int | None, provenance: Provenance) -> bytes:
    """The members that every answer of a version with this provenance has, as JSON that ends in a comma."""
    return (
        orjson.dumps(
            {
                "source": "precomputed",
                "store_version": manifest.version,
                **provenance.made_by,
                "as_of": provenance.as_of or manifest.as_of,
                "published_at": manifest.published_at,
                **({} if fallback_for is None else {"fallback_for": fallback_for}),
            }
        )[1:-1]
        + b","
    )
