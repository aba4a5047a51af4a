"""The client side of the reader's protocol: requests to send, responses as typed answers or errors."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

import orjson

from forecache.base.display import facts_html, value_text
from forecache.base.errors import ForecacheError, InputError, NotFoundError, UnavailableError
from forecache.base.table_names import NAME
from forecache.kit.http import problems
from forecache.serve.store.keys import escape_part

Key = str | int | tuple[str | int, ...]

_AGAIN = (429, 502, 503, 504)
_FINAL = frozenset({problems.STALE.uri, problems.DEADLINE_PASSED.uri})
"""Problems of these statuses that stay if a call is sent again."""


@dataclass(frozen=True)
class RealtimeAnswer:
    """The answer of a real-time model, with its origin.

    Attributes:
        items: The candidates, best first, each with its score (None if its fallback has none) and its `answered_by`,
            the fallback that scored it; empty if the answer is a value.
        value: By output; empty if the answer is a ranking.
        answered_by: "model", or the last fallback in the order that a part of the answer comes from.
        answered_by_counts: Number of candidates by what scored them.
        fallback_reason: Reason why the model did not answer; "" if it did.
        warnings: Problems of the model's inputs, each a sentence.
        model_runtime: The library or kind that runs the model: "lightgbm", "onnx", "function", ... A function's
            versions are numbered apart from those in the registry.
        stores: By name, the `version`, `as_of`, `age_s` and `stale` of each that was read.
        late: Whether the deadline had passed when the answer was ready.
        timings_ms: By stage, and their `total` since the arrival of the request.
    """

    name: str
    request_id: str | None
    items: tuple[Mapping[str, Any], ...]
    value: Mapping[str, Any]
    answered_by: str
    answered_by_counts: Mapping[str, int]
    fallback_reason: str
    warnings: tuple[str, ...]
    model_name: str
    model_version: int
    model_runtime: str
    release: int
    stores: Mapping[str, Mapping[str, Any]]
    deadline_ms: float
    late: bool
    timings_ms: Mapping[str, float]

    def _repr_html_(self) -> str:
        facts = {
            "value": [f"{name}: {value_text(value)}" for name, value in self.value.items()],
            "items": [", ".join(map(value_text, item.values())) for item in self.items],
            "answered by": self.answered_by,
            "fallback reason": self.fallback_reason,
            "warnings": self.warnings,
            "model": f"{self.model_name} {self.model_version} ({self.model_runtime}), release {self.release}",
            "stores": [f"{name} {each['version']}, as of {each['as_of']}" for name, each in self.stores.items()],
            "took": f"{self.timings_ms['total']:.3g} of {self.deadline_ms:g} ms{', late' if self.late else ''}",
        }
        return facts_html(f"{self.name}, request {self.request_id or 'without id'}", facts)


class CallOutcome(NamedTuple):
    """The outcome of a response: a value, or a failure and whether (and after how long) to try again."""

    value: Any = None
    failure: ForecacheError | None = None
    again: bool = False
    retry_after_s: float = 0.0


def pipeline_path(pipeline: str) -> str:
    """Path of a pipeline; raises InputError for an invalid name, which could change the path."""
    if not NAME.fullmatch(pipeline):
        raise InputError(
            f"{pipeline!r} cannot be a pipeline's name.", remedy="Names are lower-case letters, digits and underscores."
        )
    return f"/v1/{pipeline}"


def key_text(key: Key) -> str:
    """A key in the reader's text form; tuples are composite keys."""
    if isinstance(key, tuple):
        return "|".join(escape_part(str(part)) for part in key)
    return str(key)


def many_request(keys: Sequence[Key], fields: Sequence[str], limit: int | None) -> dict[str, Any]:
    body: dict[str, Any] = {"keys": [key_text(key) for key in keys]}
    if fields:
        body["fields"] = list(fields)
    if limit is not None:
        body["limit"] = limit
    return body


def request_body(name: str, request: Mapping[str, Any]) -> bytes:
    """A request to a real-time model as JSON; dates and moments are ISO 8601, numbers and arrays of numpy are plain."""
    try:
        text = json.dumps(
            dict(request), default=_to_json_value, allow_nan=False, ensure_ascii=False, separators=(",", ":")
        )
        return text.encode()
    except (TypeError, ValueError) as error:
        remedy = "It takes texts, numbers that are finite, booleans, dates and moments."
        raise InputError(f"The request to {name!r} cannot be sent: {error}.", remedy=remedy) from None


def _to_json_value(value: Any) -> Any:
    if isinstance(value, date):  # a moment is one
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a value is a {type(value).__name__}")


def realtime_answer_from(data: Mapping[str, Any]) -> RealtimeAnswer:
    return RealtimeAnswer(
        name=data["name"],
        request_id=data["request_id"],
        items=tuple(data.get("items", ())),
        value=data.get("value", {}),
        answered_by=data["answered_by"],
        answered_by_counts=data["answered_by_counts"],
        fallback_reason=data.get("fallback_reason", ""),
        warnings=tuple(data.get("warnings", ())),
        model_name=data["model"]["name"],
        model_version=data["model"]["version"],
        model_runtime=data["model"]["runtime"],
        release=data["release"],
        stores=data["stores"],
        deadline_ms=data["deadline_ms"],
        late=data.get("late", False),
        timings_ms=data["timings_ms"],
    )


def outcome_of(status: int, headers: Mapping[str, str], content: bytes, read: Callable[[Any], Any]) -> CallOutcome:
    """Interpret a response; `read` turns the decoded body of a successful one into the value."""
    if status == 200:
        return CallOutcome(read(orjson.loads(content)))
    problem = _read_problem(status, content)
    kind, detail = str(problem.get("type", "")), str(problem.get("detail", ""))
    if kind == problems.NO_KEY.uri:
        return CallOutcome(None)
    if status in _AGAIN:
        after = headers.get("retry-after", "")
        seconds = float(after) if after.isdecimal() else 0.0
        return CallOutcome(None, UnavailableError(detail), kind not in _FINAL, seconds)
    if status == 404:
        return CallOutcome(None, NotFoundError(detail))
    if 400 <= status < 500:
        return CallOutcome(None, InputError(detail))
    return CallOutcome(None, UnavailableError(detail))


def _read_problem(status: int, content: bytes) -> Mapping[str, Any]:
    try:
        problem = orjson.loads(content)
    except orjson.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        return {"detail": f"The reader answered {status}: {content[:200]!r}."}
    return problem


@dataclass(frozen=True)
class Answer:
    """The reader's answer for a key, with its provenance.

    Attributes:
        value: The served fields, or the requested ones; None if `found` is False.
        source: "precomputed", or "live" where a stream made the value, or it is merged with a stream when it is read.
        store_version, published_at: Of a precomputed answer; -1 and None of a live one.
        model_name, model_version, scored_at: Of a prediction; "", -1 and None of features, which no model made.
        as_of: As-of date of the value; of a live one the date of its event, of a live view today's (UTC); None of a key
            that is in no stream.
        age_s: Age of the value when the reader answered, in seconds: since `event_time`, else since the midnight (UTC)
            that ended the as-of date of the version.
        stale: Whether `age_s` is more than the pipeline's declaration allows.
        event_time: Of a live answer, when its event happened; None of a live view without one since the as-of date.
        position: Of a live answer, the version of the stream's table that holds it; None while none does.
        verified_through: Of a live answer, the version of the table at which the live layer was last found equal to
            it; -1: never.
    """

    key: str
    found: bool
    value: Mapping[str, Any] | None
    source: str
    store_version: int
    model_name: str
    model_version: int
    as_of: date | None
    scored_at: datetime | None
    published_at: datetime | None
    age_s: int
    stale: bool
    event_time: datetime | None = None
    position: int | None = None
    verified_through: int = -1

    def _repr_html_(self) -> str:
        if not self.found:
            return facts_html(f"{self.key}: no such key", {"as of": self.as_of})
        facts = {
            "value": [f"{name}: {value_text(value)}" for name, value in (self.value or {}).items()],
            "source": self.source if self.store_version < 0 else f"{self.source}, store version {self.store_version}",
            "model": f"{self.model_name} {self.model_version}" if self.model_name else "",
            "as of": self.as_of,
            "event time": self.event_time,
            "scored at": self.scored_at,
            "age": f"{self.age_s:,} s{', stale' if self.stale else ''}",
        }
        return facts_html(self.key, facts)


def answer_from(data: Mapping[str, Any]) -> Answer:
    return _answer(data, data)


def answers_from(data: Mapping[str, Any]) -> list[Answer]:
    return [_answer(row, data) for row in data["results"]]


def _answer(row: Mapping[str, Any], common: Mapping[str, Any]) -> Answer:
    is_live = row.get("source") == "live"
    # The common members describe the version: a live answer does not inherit them.
    told = row if is_live else {**common, **row}
    model = told.get("model") or {"name": "", "version": told.get("model_version", -1)}
    event_time = _parse_time(told["event_time"]) if told.get("event_time") else None
    day = told.get("as_of") or (event_time.date() if event_time else None)
    return Answer(
        key=row["key"],
        found=row.get("found", True),
        value=row.get("value"),
        source=told["source"],
        store_version=told.get("store_version", -1),
        model_name=model["name"],
        model_version=model["version"],
        as_of=date.fromisoformat(day) if isinstance(day, str) else day,
        scored_at=_parse_time(told["scored_at"]) if told.get("scored_at") else None,
        published_at=_parse_time(told["published_at"]) if told.get("published_at") else None,
        age_s=told["age_s"],
        stale=told["stale"],
        event_time=event_time,
        position=told.get("position"),
        verified_through=told.get("verified_through", -1),
    )


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
