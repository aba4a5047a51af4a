"""Answers from a version and the live layer above it.

A pending row wins over one of the live layer, and that one over the version's row if its offset is above the cut-off of
the version.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Final

import orjson

from forecache.base.errors import UnavailableError
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem, quote_value
from forecache.serve.reader.versions.answers import JSON, Version, VersionAnswers, select_fields
from forecache.serve.reader.versions.live_layers import OpenLayer
from forecache.serve.store import Manifest
from forecache.serve.store.live.layer import PENDING, Found, LiveLayer
from forecache.serve.store.manifest import Provenance, StalePolicy, TableSource
from forecache.serve.store.values import cut_lists, json_renderer, rows_of

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_POSITION: Final = 0
_EVENT_US: Final = 1
_VALUE: Final = 2
"""Places in `Found`."""
_MEMBERS = (
    b'"source":"live","position":%b,"event_time":"%b:%02d:%02d.%06dZ","verified_through":%d,%b"age_s":%d,"stale":%b}'
)
_FOR_EVER_H = 24 * 365 * 1000.0


class LiveAnswers(VersionAnswers):
    """Answers of a store with a live layer. They have no ETag: a row may change before the next answer."""

    def __init__(self, version: Version, layer: OpenLayer, *, offset: int = 0, fallback_for: int | None = None) -> None:
        self.live, self.stream, self._table = layer.reader, layer.declared.stream, layer.declared.table
        self._find = layer.reader.find
        self._cut = version.manifest.cut
        self._second = 0
        self._max_age_s = version.manifest.policy.max_age_h * 3600
        self._on_stale = version.manifest.policy.on_stale
        self._is_refused = False
        super().__init__(version, offset=offset, fallback_for=fallback_for)
        self.layer = layer
        self._version_one, self._version_many = super().one, super().many

    def refresh(self, now: float) -> None:
        self._second = int(now)
        if not self.manifest.version:
            self._common = b'"source":"live","stream":"%b",' % self.stream.encode()
            self._age_from = self.live.newest_event_us / 1e6 or now
        super().refresh(now)
        self._verified = self.live.verified_through
        # A version that is too old is refused only for keys that it answers itself: streamed rows are still served.
        self._is_refused, self.refused = self.refused, False
        self.etag, self.headers = "", (("content-type", JSON), ("cache-control", "no-cache"))

    def one(self, key: bytes, fields: Sequence[str] = (), limit: int = 0) -> bytes | None:
        row = self._find(key)
        if row is None or row[_POSITION] <= self._cut:
            if self._is_refused:
                self._refuse_stale()
            return self._version_one(key, fields, limit)
        return self._answer_body(key, row[_VALUE], b"," + self._members(row), fields, limit)

    @staticmethod
    def _answer_body(key: bytes, value: bytes, tail: bytes, fields: Sequence[str], limit: int) -> bytes:
        if limit:
            value = cut_lists(value, limit)
        if fields:
            value = select_fields(value, fields)
        return b"".join((b'{"key":', orjson.dumps(key.decode()), b',"value":', value, tail))

    def many(self, keys: Sequence[bytes], fields: Sequence[str] = (), limit: int = 0) -> tuple[bytes, int]:
        streamed = self._answering_rows(keys)
        if not streamed:
            return self._version_many(keys, fields, limit)
        entries = self.get_entries(keys)
        for place, row in streamed.items():
            entries[place] = row[_VALUE]
        own = {place: self._members(row) for place, row in streamed.items()}
        return self._join_answers(keys, entries, own, fields, limit)

    def rows(self, keys: Sequence[bytes]) -> list[dict[str, Any] | None]:
        return self._date_rows(keys, self._rows_above_cut(keys))[0]

    def dated_rows(self, keys: Sequence[bytes]) -> tuple[list[dict[str, Any] | None], list[datetime]]:
        return self._date_rows(keys, self._answering_rows(keys))

    def _date_rows(
        self, keys: Sequence[bytes], streamed: dict[int, Found]
    ) -> tuple[list[dict[str, Any] | None], list[datetime]]:
        rows: list[dict[str, Any] | None] = [None] * len(keys) if self._is_refused else super().rows(keys)
        moments = self.moments(keys)
        for place, row in streamed.items():
            rows[place], moments[place] = orjson.loads(row[_VALUE]), moment_of(row[_EVENT_US])
        return rows, moments

    def not_found_problem(self, key: str) -> Problem:
        if self.manifest.version:
            return super().not_found_problem(key)
        what = f"The key {quote_value(key)} is not among the rows that the stream {self.stream} has made of late."
        return Problem(problems.NO_KEY, what, members={"key": key, "stream": self.stream})

    def describe_layer(self) -> dict[str, Any]:
        live = self.live
        return {
            "stream": self.stream,
            "table": self._table,
            "keys": live.entries - live.num_pending,
            "pending": live.num_pending,
            "applied": live.applied_version,
            "verified_through": live.verified_through,
            "cut": self._cut,
        }

    def _rows_above_cut(self, keys: Sequence[bytes]) -> dict[int, Found]:
        """Streamed rows above the cut-off, by place: these answer instead of the version."""
        live, cut = self.live, self._cut
        found = () if live.is_empty else live.find_many(keys)
        return {place: row for place, row in enumerate(found) if row is not None and row[_POSITION] > cut}

    def _answering_rows(self, keys: Sequence[bytes]) -> dict[int, Found]:
        """As `_rows_above_cut`; raises a `Problem` if the version has to answer some keys and is too old."""
        streamed = self._rows_above_cut(keys)
        if self._is_refused and len(streamed) < len(keys):
            self._refuse_stale()
        return streamed

    def _members(self, row: Found) -> bytes:
        """The members of a streamed row's answer, with the brace that ends it."""
        position, event_us, _, provenance = row
        seconds = event_us // 1_000_000
        age_s = max(0, self._second - seconds)
        is_old = age_s > self._max_age_s and self._on_stale != "serve"
        if is_old and self._on_stale == "refuse":
            self._refuse_stale()
        return _MEMBERS % (
            b"null" if position == PENDING else b"%d" % position,
            _hour_of(seconds // 3600),
            seconds // 60 % 60,
            seconds % 60,
            event_us % 1_000_000,
            self._verified,
            provenance[1:-1] + b"," if len(provenance) > 2 else b"",
            age_s,
            b"true" if is_old else b"false",
        )

    def _refuse_stale(self) -> None:
        self.refused = True
        try:
            self.check_age()
        finally:
            self.refused = False


@lru_cache(maxsize=4096)
def _hour_of(hours: int) -> bytes:
    """The date and hour in UTC of hours since 1970, such as `2026-03-01T08`."""
    return (_EPOCH + timedelta(hours=hours)).isoformat()[:13].encode()


def moment_of(event_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=event_us)


def answers_of(
    version: Version, layer: OpenLayer | None = None, *, offset: int = 0, fallback_for: int | None = None
) -> VersionAnswers:
    """The answers from a version, with the live layer above it if there is one.

    A view's are not merged, if the version was published before the view was live, or by another declaration.
    """
    if layer is not None and layer.declared.kind != "tiles":
        return LiveAnswers(version, layer, offset=offset, fallback_for=fallback_for)
    if layer is not None and version.manifest.states:
        try:
            return ViewAnswers(version, layer, offset=offset, fallback_for=fallback_for)
        except UnavailableError as error:
            logger.error("Without what the stream has seen since its as-of date: %s", error)
    answers = VersionAnswers(version, offset=offset, fallback_for=fallback_for)
    answers.layer = layer
    return answers


class NoVersion:
    """Replaces the version of a store that has published none: only streamed rows are found."""

    mapped_bytes = 0

    def __init__(self, name: str, layer: LiveLayer) -> None:
        self.manifest = _empty_manifest(name, layer)

    def get_entry(self, key: bytes) -> bytes | None:
        return None

    def get_entries(self, keys: Iterable[bytes]) -> list[bytes | None]:
        return [None for _ in keys]

    get_many = get_entries

    def warm(self) -> int:
        return 0

    def close(self) -> None:
        pass


def _empty_manifest(name: str, layer: LiveLayer) -> Manifest:
    """A manifest of version 0, which no published version has."""
    today = datetime.now(timezone.utc).date().isoformat()
    return Manifest(
        pipeline=name, store="", version=0, parent=None, kind="live", segments=(), rows=0, tombstones=0,
        content_hash="", key=layer.key, fields=layer.fields, source=TableSource(layer.table, "", -1, today),
        provenance=Provenance("", -1, -1, "", ""), policy=StalePolicy(_FOR_EVER_H, "serve"), published_at="",
        code_version="", run_id="", inputs="", stream=layer.stream,
    )  # fmt: skip


logger = logging.getLogger("forecache.reader")
_WITHOUT_EVENT = b'"source":"live","position":null,"event_time":null,"verified_through":%d,%b,'


class ViewAnswers(LiveAnswers):
    """Answers of a live view. All are marked as live and as of today: the windows move on even without a new event.

    Raises UnavailableError if the version was published by another declaration than the live layer.
    """

    def __init__(self, version: Version, layer: OpenLayer, *, offset: int = 0, fallback_for: int | None = None) -> None:
        from forecache.serve.store.read.live_view import LiveViewMerger  # numpy, which other layers do without

        self._view = LiveViewMerger(layer.declared.plan, version.manifest)
        self._json_of = json_renderer(version.manifest.fields)
        super().__init__(version, layer, offset=offset, fallback_for=fallback_for)

    def refresh(self, now: float) -> None:
        super().refresh(now)
        manifest, today = self.manifest, moment_of(self._second * 1_000_000).date()
        night = f"{manifest.pipeline}={manifest.as_of}@{manifest.source.delta_version}"
        self._made_of = b'{"as_of":"%b","feature_version":"%b"}' % (today.isoformat().encode(), night.encode())
        self._common = _WITHOUT_EVENT % (self.live.verified_through, self._made_of[1:-1])
        self.tail = b"," + self._common + self._moment

    def one(self, key: bytes, fields: Sequence[str] = (), limit: int = 0) -> bytes | None:
        entries, streamed = self._merge_layer([key])
        if entries[0] is None:
            return None
        tail = b"," + self._members(streamed[0]) if streamed else self.tail
        return self._answer_body(key, self._json_of(entries[0]), tail, fields, limit)

    def many(self, keys: Sequence[bytes], fields: Sequence[str] = (), limit: int = 0) -> tuple[bytes, int]:
        if not keys:
            return self._version_many(keys, fields, limit)
        entries, streamed = self._merge_layer(keys)
        texts = [None if entry is None else self._json_of(entry) for entry in entries]
        own = {place: self._members(row) for place, row in streamed.items() if texts[place] is not None}
        return self._join_answers(keys, texts, own, fields, limit)

    def _members(self, row: Found) -> bytes:
        position, event_us, value, _ = row
        return super()._members((position, event_us, value, self._made_of))

    def rows(self, keys: Sequence[bytes]) -> list[dict[str, Any] | None]:
        return self.dated_rows(keys)[0]

    def dated_rows(self, keys: Sequence[bytes]) -> tuple[list[dict[str, Any] | None], list[datetime]]:
        entries, streamed = self._merge_layer(keys)
        moments = [self.manifest.as_of_end] * len(keys)
        for place, row in streamed.items():
            moments[place] = moment_of(row[1])
        return rows_of(entries, self.manifest.fields), moments

    def _merge_layer(self, keys: Sequence[bytes]) -> tuple[list[bytes | None], dict[int, Found]]:
        """(packed entries of the features now, streamed rows that they include by place)."""
        at_us, view, manifest = time.time_ns() // 1000, self._view, self.manifest
        if self._is_refused:
            self._refuse_stale()
        if view.lag_days(at_us) > view.max_lag_days:
            raise Problem(
                problems.STALE,
                f"Version {manifest.version} of {manifest.pipeline} is as of {manifest.as_of}, and its states can be "
                f"merged with events for {view.max_lag_days} days; publish a newer as-of date.",
                headers=[("retry-after", "60")],
                members={"store_version": manifest.version, "as_of": manifest.as_of},
            )
        streamed = self._rows_above_cut(keys)
        tiles: list[bytes | None] | None = None
        if streamed:
            tiles = [streamed[place][2] if place in streamed else None for place in range(len(keys))]
        return view.merge_entries(self.snapshot.get_entries(keys), tiles, at_us), streamed
