"""Entry of the request log on the answer path: sample answers, encode them, and pass them to the log writer."""

import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from itertools import count
from time import perf_counter_ns, time_ns
from typing import Any

import numpy as np
import orjson
import xxhash

from forecache.base.errors import InputError
from forecache.declare.realtime.examples import Log
from forecache.declare.realtime.request import RequestField
from forecache.declare.realtime.request_rows import NOT_FINITE, column_of, read_logged_request
from forecache.kit.process.periodic import RareMessage
from forecache.realtime.deadline import RequestClock
from forecache.realtime.log.record import pack_answer
from forecache.realtime.log.spool_writer import LogChannel
from forecache.realtime.release.format import Release
from forecache.realtime.request.request_answer import LiveRead, ParsedRequest, RequestAnswer, lowest_fallback
from forecache.realtime.request.request_parser import REQUEST_ID, RequestParser
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store.keys import MAX_KEY_BYTES, escape_part


def encode_request(release: Release, request: ParsedRequest) -> bytes:
    found: dict[str, Any] = {field.name: _values(request.columns[field.name])[0] for field in release.request}
    if request.request_id:
        found.setdefault(REQUEST_ID, request.request_id)
    if release.candidates is not None:
        names = [field.name for field in release.candidates.fields]
        columns = [_values(request.columns[name]) for name in names]
        found[release.candidates.name] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return orjson.dumps(found)


def parse_logged(parser: RequestParser, release: Release, body: bytes) -> ParsedRequest:
    """Parse a logged request into the same columns, to the bit.

    Raises:
        Problem: It is not a valid request to this release.
    """
    if release.on_nan == "refuse" or all(field.type != "double" for field in release.all_fields):
        return parser.parse(body)
    request, lists = read_logged_request(orjson.loads(body), release)
    return parser.parse_values(request, lists, body=body)


def _values(column: np.ndarray) -> list[Any]:
    if column.dtype.kind == "M":
        return [str(value) for value in column]
    values = column.tolist()
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        return [value if math.isfinite(value) else NOT_FINITE[str(value)] for value in values]
    return values


BUCKETS = 2**64


def bucket_of(key: bytes, salt: bytes) -> int:
    """Return the bucket of a key, 0 to 2**64 - 1: XXH3-64 of salt, zero byte and key. Salts give independent buckets.

    A key is in a share of all keys if `bucket_of(key, salt) < share * BUCKETS`; a growing share keeps its keys.
    """
    return xxhash.xxh3_64_intdigest(salt + b"\0" + key)


class Sampler:
    """Decides which requests to one model are logged."""

    def __init__(self, name: str, log: Log, request: Sequence[RequestField]) -> None:
        self._fields = [field for field in request if field.name in log.by]
        self._by = log.by
        self._salt = b"log:" + name.encode()
        self._below = int(log.sample * BUCKETS)

    def key_of(self, request: ParsedRequest) -> bytes:
        """Encode the key of a request; empty if its values are not a valid key, such as a long text.

        Same result as `forecache.serve.store.keys.encode_columns`, many times faster for one key.
        """
        columns = request.columns
        try:
            if len(self._by) > 1:
                texts = [escape_part(str(columns[name].item())) for name in self._by]
                key = "|".join(texts).encode()
            else:
                key = str(columns[self._by[0]].item()).encode()
        except KeyError:
            return b""
        return key if len(key) <= MAX_KEY_BYTES else b""

    def columns_of(self, members: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Parse the fields of the key from unchecked members of a request; empty if one is malformed."""
        try:
            return {field.name: column_of(field, [members.get(field.name)]) for field in self._fields}
        except InputError:
            return {}

    def is_logged(self, key: bytes) -> bool:
        return self._below == BUCKETS or bucket_of(key, self._salt) < self._below


logger = logging.getLogger("forecache.realtime")
_MOST_US = 2**31 - 1


class AnswerLog:
    """Logs the answers of one release, on the event loop's thread.

    Args:
        variant: One of `forecache.realtime.log.record.VARIANTS`.
    """

    def __init__(self, release: Release, channel: LogChannel, *, variant: str = "current") -> None:
        assert release.log is not None
        self._sampler = Sampler(release.name, release.log, release.request)
        self._release, self._channel, self._variant = release, channel, variant.encode()
        self._number, self._version = release.number, release.model.version
        self._half, self._ids = secrets.token_hex(8), count(1)
        self._stores: tuple[tuple[object, ...], bytes] = ((), b"")
        self._failures = RareMessage()

    def assign_id(self, request: ParsedRequest, members: Mapping[str, Any] | None = None) -> None:
        """Assign an id of 32 hex digits to a request without one; `members` are of one without columns."""
        if not request.request_id:
            request.request_id = f"{self._half}{next(self._ids):016x}"
        if members is not None:
            request.columns = self._sampler.columns_of(members)

    def mark_sending(self) -> None:
        """Mark that an answer is being sent, and logged after that: if the process dies between, it counts as lost."""
        self._channel.counters.set_sending(True)

    def add(
        self, request: ParsedRequest, answered: RequestAnswer, clock: RequestClock, *, variant: str | None = None
    ) -> None:
        """Log an answer if its key is in the sample; an error costs the row, never the answer.

        Args:
            variant: The variant that answered, if not the release's own.
        """
        try:
            key = self._sampler.key_of(request)
            if self._sampler.is_logged(key):
                variant_name = self._variant if variant is None else variant.encode()
                self._channel.add(self._pack_answer(request, answered, clock, key, variant_name))
        except Exception as error:  # the answer has gone out, or still has to
            self._channel.counters.add("lost_error")
            if self._failures.is_due():
                logger.error("An answer of %s could not be logged.", self._release.name, exc_info=error)
        self._channel.counters.set_sending(False)

    def _pack_answer(
        self, request: ParsedRequest, answered: RequestAnswer, clock: RequestClock, key: bytes, variant: bytes
    ) -> bytes:
        times, scores, answered_by = answered.times, answered.scores, answered.answered_by
        item_answered_by = ranking = b""
        if not answered_by:
            answered_by, item_answered_by = (
                lowest_fallback(answered.item_answered_by),
                orjson.dumps(list(answered.item_answered_by)),
            )
            if answered.order is not None:
                ranking = answered.order.astype("<i4").tobytes()
        if scores is not None and scores.dtype.char not in "fd":
            scores = scores.astype(np.float64)
        return pack_answer(
            arrived_us=(time_ns() - perf_counter_ns() + clock.arrived) // 1000,
            release=self._number,
            model_version=self._version,
            items=request.length,
            deadline_ms=clock.deadline_ms,
            times_us=(
                times.wait // 1000, times.parse // 1000, times.lookup // 1000, times.transform // 1000,
                times.model // 1000, times.fallbacks // 1000, min(answered.elapsed // 1000, _MOST_US),
            ),
            late=answered.late,
            request_id=answered.request_id.encode("utf-8", "replace"),
            key=key,
            request=request.body or encode_request(self._release, request),
            features=answered.features,
            scores=scores,
            answered_by=answered_by.encode(),
            fallback_reason=answered.fallback_reason.encode(),
            variant=variant,
            stores=self._stores_of(answered.used) if answered.used else b"",
            warnings=orjson.dumps(list(answered.warnings)) if answered.warnings else b"",
            item_answered_by=item_answered_by,
            ranking=ranking,
            live=orjson.dumps([_live(*each) for each in answered.live.items()]) if answered.live else b"",
        )  # fmt: skip

    def _stores_of(self, used: Mapping[str, VersionAnswers]) -> bytes:
        """Encode the versions that were read as JSON; cached until a version changes or its age does."""
        state: list[object] = []
        for answers in used.values():
            state += (answers, answers.age_s)
        known = self._stores
        if known[0] == tuple(state):
            return known[1]
        text = orjson.dumps([_store(name, answers) for name, answers in used.items()])
        self._stores = (tuple(state), text)
        return text


def _store(name: str, answers: VersionAnswers) -> dict[str, object]:
    manifest = answers.manifest
    return {
        "name": name,
        "version": manifest.version,
        "as_of": manifest.as_of,
        "age_s": answers.age_s,
        "store": manifest.store,
        "table": manifest.source.table,
        "delta_version": manifest.source.delta_version,
    }


def _live(lookup: str, read: LiveRead) -> dict[str, object]:
    pending = [{"key": place, "offsets": orjson.Fragment(offsets or b"[]")} for place, offsets in read.pending.items()]
    return {
        "lookup": lookup,
        "view": read.view,
        "at_us": read.at_us,
        "position": read.position,
        "layer": read.layer,
        "pending": pending,
    }
