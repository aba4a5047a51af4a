"""The reader's answer for a key, read from its JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any


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


def answer_from(data: Mapping[str, Any]) -> Answer:
    """The answer in the body for one key."""
    return _answer(data, data)


def answers_from(data: Mapping[str, Any]) -> list[Answer]:
    """The answers in the body for many keys."""
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
