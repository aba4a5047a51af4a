"""Answers of a live view: the version's row and the tiles of its live layer, merged as of the moment of the request."""

import logging
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from forecache.base.errors import UnavailableError
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem
from forecache.serve.reader.versions.answers import Version, VersionAnswers
from forecache.serve.reader.versions.live_answers import LiveAnswers, moment_of
from forecache.serve.reader.versions.live_layers import OpenLayer
from forecache.serve.store.live.layer import Found
from forecache.serve.store.read.live_view import LiveViewMerger
from forecache.serve.store.values import json_renderer, rows_of

logger = logging.getLogger("forecache.reader")
_WITHOUT_EVENT = b'"source":"live","position":null,"event_time":null,"verified_through":%d,%b,'


class ViewAnswers(LiveAnswers):
    """Answers of a live view. All are marked as live and as of today: the windows move on even without a new event.

    Raises UnavailableError if the version was published by another declaration than the live layer.
    """

    def __init__(self, version: Version, layer: OpenLayer, *, offset: int = 0, fallback_for: int | None = None) -> None:
        self._view = LiveViewMerger(layer.declared.plan, version.manifest)
        self._json_of = json_renderer(version.manifest.fields)
        super().__init__(version, layer, offset=offset, fallback_for=fallback_for)

    def refresh(self, now: float) -> None:
        super().refresh(now)
        manifest, today = self.manifest, moment_of(self._second * 1_000_000).date()
        night = f"{manifest.pipeline}={manifest.as_of}@{manifest.source.delta_version}"
        self._made_of = b'{"as_of":"%b","base":"%b"}' % (today.isoformat().encode(), night.encode())
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


def view_answers(
    version: Version, layer: OpenLayer, *, offset: int = 0, fallback_for: int | None = None
) -> VersionAnswers:
    """The answers of a live view; unmerged, if the version is from before it was live, or of another declaration."""
    if version.manifest.states:
        try:
            return ViewAnswers(version, layer, offset=offset, fallback_for=fallback_for)
        except UnavailableError as error:
            logger.error("Without what the stream has seen since its night: %s", error)
    answers = VersionAnswers(version, offset=offset, fallback_for=fallback_for)
    answers.layer = layer
    return answers
