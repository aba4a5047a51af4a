"""Encode an answer as the reader's own JSON.

The scores of all candidates are encoded by a handful of calls, not by one call each.
"""

import re
from collections.abc import Mapping, Sequence
from random import getrandbits
from typing import Any

import numpy as np
import orjson

from forecache.realtime.release.format import Release
from forecache.realtime.request.request_answer import RequestAnswer, StageTimes, lowest_fallback
from forecache.serve.reader.versions.answers import VersionAnswers

_ARRAY = orjson.OPT_SERIALIZE_NUMPY


class Renderer:
    """Encodes the answers of one release.

    Args:
        variant: Its variant in a rollout, for the answers; "": answers do not have the member.
    """

    def __init__(self, release: Release, *, variant: str = "") -> None:
        self._output = release.output
        self._head = orjson.dumps({"name": release.name})[:-1] + b',"request_id":'
        self._model = (
            b',"model":'
            + orjson.dumps(release.model.summary)
            + (b',"variant":"%b"' % variant.encode() if variant else b"")
            + b',"release":%d,"stores":{' % release.number
        )
        item = release.candidates.item.name if release.candidates is not None else ""
        self._item = b"{" + orjson.dumps(item) + b":"
        self._score = b',"' + release.output.encode() + b'":'
        self._is_ranking = release.candidates is not None

    def body(self, answered: RequestAnswer, *, deadline_ms: float, elapsed: int, late: bool) -> bytes:
        """Encode an answer as JSON. `elapsed`: nanoseconds since the request arrived."""
        parts = [self._head, orjson.dumps(answered.request_id or None)]
        if self._is_ranking:
            parts.append(b',"items":[')
            self._items(answered, parts)
            parts.append(b"]")
        else:
            shown = _scores(answered, None, 1)[0]
            parts += (b',"value":{"', self._output.encode(), b'":', shown, b"}")
        answered_by = answered.answered_by
        if answered_by:
            counts = b'{"%b":%d}' % (answered_by.encode(), len(answered.items) if self._is_ranking else 1)
            if self._is_ranking and not answered.items:
                counts = b"{}"
        else:
            names = list(answered.item_answered_by)
            answered_by = lowest_fallback(names)
            counts = orjson.dumps({name: names.count(name) for name in dict.fromkeys(names)})
        parts += (b',"answered_by":"', answered_by.encode(), b'","answered_by_counts":', counts)
        if answered.fallback_reason:
            parts += (b',"fallback_reason":"', answered.fallback_reason.encode(), b'"')
        if answered.warnings:
            parts += (b',"warnings":', orjson.dumps(list(answered.warnings)))
        parts += (self._model, _stores(answered.used), b'},"deadline_ms":%g' % deadline_ms)
        if late:
            parts.append(b',"late":true')
        parts.append(_times(answered.times, elapsed))
        return b"".join(parts)

    def _items(self, answered: RequestAnswer, parts: list[bytes]) -> None:
        items, order = answered.items, answered.order
        if not items:
            return
        if order is not None:
            places = order.tolist()
            items = [items[place] for place in places]
        texts = _texts(items)
        scores = _scores(answered, order, len(items))
        if answered.answered_by:
            ends = [b',"answered_by":"%b"},' % answered.answered_by.encode() + self._item] * len(items)
        else:
            item_answered_by = (
                answered.item_answered_by if order is None else [answered.item_answered_by[place] for place in places]
            )
            ends = [b',"answered_by":"%b"},' % answered_by.encode() + self._item for answered_by in item_answered_by]
        columns: list[bytes] = [self._score] * (4 * len(items))
        columns[::4], columns[2::4], columns[3::4] = texts, scores, ends
        columns[-1] = columns[-1].removesuffix(b"," + self._item)
        parts.append(self._item)
        parts += columns


def _texts(items: Sequence[Any]) -> list[bytes]:
    text = orjson.dumps(items)
    if text.count(b",") == len(items) - 1:
        return text[1:-1].split(b",")
    if text[1:2] == b'"' and b"\\" not in text and set(map(type, items)) == {str}:
        # Without a backslash there is no quote inside a string, so that the bytes `","` always separate two strings.
        return [b'"%b"' % each for each in text[2:-2].split(b'","')]
    return [orjson.dumps(item) for item in items]


def _scores(answered: RequestAnswer, order: np.ndarray | None, count: int) -> list[bytes]:
    scores = answered.scores
    if scores is None:
        return [b"null"] * count
    single = answered.single
    if order is not None:
        scores = scores[order]
        single = None if single is None else single[order]
    texts = orjson.dumps(scores[:count], option=_ARRAY)[1:-1].split(b",")
    if single is None:
        return texts
    # A float32 keeps its digits if another fallback answers for other candidates.
    narrow = np.where(single, scores, 0.0).astype(np.float32)
    shorter = orjson.dumps(narrow, option=_ARRAY)[1:-1].split(b",")
    return [shorter[place] if is_single else texts[place] for place, is_single in enumerate(single.tolist())]


def _stores(used: Mapping[str, VersionAnswers]) -> bytes:
    return b",".join(
        b'"%b":{"version":%d,"as_of":"%b","age_s":%d,"stale":%b}'
        % (
            name.encode(), each.manifest.version, each.manifest.as_of.encode(), each.age_s,
            b"true" if each.stale else b"false",
        )
        for name, each in used.items()
    )  # fmt: skip


def _times(times: StageTimes, elapsed: int) -> bytes:
    """Encode the stages in ms; "render" is the rest: encoding the answer, and waiting for the worker process."""
    named = (times.wait, times.parse, times.lookup, times.transform, times.model, times.fallbacks)
    return (
        b',"timings_ms":{"wait":%.3f,"parse":%.3f,"lookup":%.3f,"transform":%.3f,"model":%.3f,"fallbacks":%.3f,'
        b'"render":%.3f,"total":%.3f}}' % (*(each / 1e6 for each in named), (elapsed - sum(named)) / 1e6, elapsed / 1e6)
    )


TRACE = "traceparent"
"""The header field of W3C Trace Context."""
_FORM = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def trace_headers(parent: str) -> list[tuple[str, str]]:
    """Return the trace header of an answer: the request's trace with a new span; none if the request's is malformed."""
    found = _FORM.fullmatch(parent)
    if found is None or parent.startswith("ff") or not int(found[1], 16) or not int(found[2], 16):
        return []
    return [(TRACE, f"00-{found[1]}-{getrandbits(64) or 1:016x}-{found[3]}")]
