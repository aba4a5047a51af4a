"""Explains one logged answer of a real-time model: its inputs, the features' contributions, and the current answer."""

from collections.abc import Mapping, Sequence
from datetime import date, timezone
from typing import Any

import numpy as np
import orjson

from forecache.base.errors import ForecacheError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare.realtime.request_rows import features_of, order_of, scores_of
from forecache.kit.delta.tables import table_exists
from forecache.plugins.explain.contributions import Contributions, contributions_of
from forecache.plugins.explain.current_answer import CurrentAnswer, compute_current_answer
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import TIMES, table_of
from forecache.realtime.release.folder import open_releases, read_release
from forecache.realtime.release.follow_lake import fetch_missing_releases
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import load_release

BACKGROUND_ROWS = 64
_MOST_REQUESTS = 256


def find_answers(settings: Settings, name: str, request_id: str, day: date | None = None) -> list[dict[str, Any]]:
    """Find the logged answers to a request, sent ones before those of a shadow, newest first; or raise."""
    days = None if day is None else [day]
    if not table_exists(settings, table_of(name)):
        raise NotFoundError(
            f"The lake has no request log of {name}.",
            remedy="Nothing has been committed yet (`forecache log spool` says what waits), or it declares no `Log`: "
            f"add log=Log(...) and run `forecache release build {name}`; answers of before are not in it.",
        )
    rows = [row for batch in read_log(settings, name, days=days, request_id=request_id) for row in batch.to_pylist()]
    if not rows:
        on = f" on {day}" if day else ""
        raise NotFoundError(
            f"The request log of {name} has no answer to the request {request_id!r}{on}.",
            remedy="From here these cannot be told apart: its key is not in the sample of `Log`, it is not committed "
            f"yet (`forecache log spool` says what waits), it was lost, it was removed after `keep_days`, or {name} "
            f"never answered it. `forecache log show {name}` lists the newest answers with their ids.",
        )
    return sorted(rows, key=lambda row: (row["variant"] != "shadow", row["arrived_at"]), reverse=True)


def candidate_labels(record: dict[str, Any], release: Release | None) -> list[Any] | None:
    """The name of each candidate of a logged request, in its order; None if it ranks none. The release may be gone."""
    if release is not None and release.candidates is None:
        return None
    listed = _find_candidates(record, release)
    if listed is None and release is None and record["items"] == 1:
        return None
    if listed is None or len(listed) != record["items"]:  # a request that was not read as a whole
        return list(range(record["items"]))
    item = None if release is None or release.candidates is None else release.candidates.item.name
    return [each if not isinstance(each, dict) else each.get(item or next(iter(each), "")) for each in listed]


def _find_candidates(record: Mapping[str, Any], release: Release | None) -> list[Any] | None:
    request = _parse_json(record["request"])
    if not isinstance(request, dict):
        return None
    if release is not None and release.candidates is not None:
        found = request.get(release.candidates.name)
        return found if isinstance(found, list) else None
    lists = (each for each in request.values() if isinstance(each, list) and len(each) == record["items"])
    return next(lists, None)


def read_background(settings: Settings, name: str, record: dict[str, Any], place: int) -> tuple[np.ndarray, str]:
    """Read up to `BACKGROUND_ROWS` other rows of the same release and day; returns them and their description."""
    own = features_of(record)
    assert own is not None
    matrices: list[np.ndarray] = [np.delete(own, place, axis=0)]
    for row in _read_same_release(settings, name, record):
        features = features_of(row)
        if features is not None and features.shape[1] == own.shape[1]:
            matrices.append(features)
        if len(matrices) > _MOST_REQUESTS:
            break
    rows = np.concatenate(matrices)
    if len(rows) > BACKGROUND_ROWS:
        picked = np.random.default_rng(0).choice(len(rows), BACKGROUND_ROWS, replace=False)
        rows = rows[np.sort(picked)]
    others = len(matrices) - 1
    described = (
        f"{len(rows)} rows of this and {others:,} other logged request{'' if others == 1 else 's'} of "
        f"{record['day']} to release {record['release']}"
    )
    return rows, described


def _read_same_release(settings: Settings, name: str, record: dict[str, Any]) -> Any:
    columns: Sequence[str] = ("request_id", "release", "items", "features")
    for batch in read_log(settings, name, days=[record["day"]], columns=columns):
        for row in batch.to_pylist():
            if row["release"] == record["release"] and row["request_id"] != record["request_id"]:
                yield row


_AS_LOGGED = (
    "request_id", "key", "release", "model_version", "variant", "answered_by",
    "fallback_reason", "warnings", "late", "deadline_ms", "replica",
)  # fmt: skip


def explain_answer(
    settings: Settings, name: str, request_id: str, *, item: str | None = None, day: date | None = None
) -> dict[str, Any]:
    """Explain a logged answer as JSON values; NaN is null.

    The `item` is a candidate as the request names it, by default the first one of the answer. The `day` of its arrival
    in UTC, if known, saves reading. Raises NotFoundError without a logged answer, and InputError without that
    candidate.
    """
    record, *others = find_answers(settings, name, request_id, day)
    release, gone = _find_release(settings, name, record["release"])
    labels = candidate_labels(record, release)
    order, scores, features = order_of(record), scores_of(record), features_of(record)
    place = _candidate_place(labels, order, item, request_id)
    now = compute_current_answer(settings, name, record["request"])
    found: dict[str, Any] = {
        "name": name,
        **{column: record[column] for column in _AS_LOGGED},
        "model_runtime": None if release is None else release.model.runtime,
        "arrived_at": record["arrived_at"].astimezone(timezone.utc).isoformat().replace("+00:00", "Z"),
        "times_us": {column.removesuffix("_us"): record[column] for column in TIMES},
        "stores": record["stores"],
        "request": _parse_json(record["request"]),
        "also_logged": [{column: each[column] for column in ("variant", "release", "arrived_at")} for each in others],
        "candidates": None if labels is None else _candidates(record, labels, order, scores, now),
    }
    contributions = _contributions(settings, name, record, features, place, gone)
    explained = {
        "item": None if labels is None or not labels else labels[place],
        "place": place,
        "score": None if scores is None or not len(scores) else _number(scores[place]),
        "features": _features(release, features, place, contributions, now),
        "contributions": _contributions_json(contributions),
    }
    return {**found, "explained": explained, "today": _current_answer_json(now, place)}


def _find_release(settings: Settings, name: str, number: int) -> tuple[Release | None, str]:
    """Read the release that answered; or return None and why it cannot be read."""
    try:
        fetch_missing_releases(settings, name, [number])
        return read_release(open_releases(settings, name), number), ""
    except ForecacheError as error:
        return None, str(error)


def _candidate_place(labels: list[Any] | None, order: np.ndarray, item: str | None, request_id: str) -> int:
    if item is None:
        return int(order[0]) if len(order) else 0
    names = [str(label) for label in labels or ()]
    if item not in names:
        there = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise InputError(
            f"The request {request_id!r} has no candidate {item!r}.",
            remedy=f"It has {there}." if names else "It ranks none; leave --item out.",
        )
    return names.index(item)


def _candidates(
    record: Mapping[str, Any], labels: list[Any], order: np.ndarray, scores: np.ndarray | None, now: CurrentAnswer | str
) -> list[dict[str, Any]]:
    same = not isinstance(now, str) and len(now.order) == len(labels)
    positions = {int(place): number for number, place in enumerate(now.order, 1)} if not isinstance(now, str) else {}
    found = []
    for position, place in enumerate(order.tolist(), 1):
        found.append(
            {
                "position": position,
                "item": labels[place],
                "score": None if scores is None else _number(scores[place]),
                "answered_by": record["answered_by"]
                if record["item_answered_by"] is None
                else record["item_answered_by"][place],
                "position_today": positions.get(place) if same else None,
                "score_today": _current_score(now, place) if same else None,
            }
        )
    return found


def _contributions(
    settings: Settings, name: str, record: dict[str, Any], features: np.ndarray | None, place: int, gone: str
) -> Contributions | str:
    if not record["items"]:
        return "The request has no candidates."
    if features is None:
        return "The model was not asked: there are no features."
    if gone:
        return f"The release that answered cannot be asked again. {gone}"
    try:
        loaded = load_release(open_releases(settings, name), record["release"])
    except ForecacheError as error:
        return f"The release that answered cannot be asked again. {error}"
    try:
        rows, described = read_background(settings, name, record, place)
        return contributions_of(loaded, features[place], rows, described=described)
    except ForecacheError as error:
        return f"The model failed: {error}"
    finally:
        loaded.close()


def _features(
    release: Release | None,
    features: np.ndarray | None,
    place: int,
    contributions: Contributions | str,
    now: CurrentAnswer | str,
) -> list[dict[str, Any]]:
    """The features, largest contribution first; then those that only the current release has."""
    today_by_name: dict[str, np.float32] = {}
    if not isinstance(now, str) and now.features is not None and place < len(now.features):
        today_by_name = dict(zip(now.release.features, now.features[place], strict=True))
    row = [] if features is None or place >= len(features) else list(features[place])
    names = release.features if release is not None and len(release.features) == len(row) else None
    found = []
    for number, value in enumerate(row):
        feature = f"#{number}" if names is None else names[number]
        each: dict[str, Any] = {"name": feature, "value": _number(value)}
        if isinstance(contributions, Contributions):
            each["contribution"] = float(contributions.values[number])
            each["error"] = None if contributions.errors is None else float(contributions.errors[number])
        if names is not None and feature in today_by_name:
            then = today_by_name.pop(feature)
            each |= {"today": _number(then), "changed": bool(then != value and not (then != then and value != value))}
            each["change"] = _number(then - value) if each["changed"] else 0.0
        found.append(each)
    if isinstance(contributions, Contributions):
        found.sort(key=lambda each: -abs(each["contribution"]))
    if names is not None or not row:
        found += [
            {"name": name, "value": None, "today": _number(value), "changed": True, "only_today": True}
            for name, value in today_by_name.items()
        ]
    return found


def _contributions_json(contributions: Contributions | str) -> dict[str, Any]:
    if isinstance(contributions, str):
        return {"missing": contributions}
    return {
        "method": contributions.method,
        "background": contributions.background,
        "scale": contributions.scale,
        "base": contributions.base,
        "sum": contributions.total,
        "exact": contributions.errors is None,
    }


def _current_answer_json(now: CurrentAnswer | str, place: int) -> dict[str, Any]:
    if isinstance(now, str):
        return {"missing": now}
    return {
        "release": now.release.number,
        "model_version": now.release.model.version,
        "model_runtime": now.release.model.runtime,
        "answered_by": now.answered_by,
        "fallback_reason": now.why,
        "problem": now.problem,
        "warnings": list(now.flags),
        "score": _current_score(now, place),
        "stores": now.stores,
    }


def _current_score(now: CurrentAnswer | str, place: int) -> float | None:
    if isinstance(now, str) or now.scores is None or place >= len(now.scores):
        return None
    return _number(now.scores[place])


def _number(value: Any) -> float | None:
    """Convert a numpy number to a float with the digits of its type, as answers and `forecache log show` print it."""
    return float(str(value)) if np.isfinite(value) else None


def _parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
