"""Finds the logged answers to a request, and other rows of its day to compare them with."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import orjson

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.declare.realtime.log_records import features_of
from forecache.kit.delta.tables import table_exists
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import table_of
from forecache.realtime.release.format import Release

BACKGROUND_ROWS = 64
_MOST_REQUESTS = 256


def find_answers(settings: Settings, name: str, request_id: str, day: date | None = None) -> list[dict[str, Any]]:
    """Find the logged answers to a request: sent ones before those of a shadow, the newest first.

    Raises:
        NotFoundError: There is none.
    """
    days = None if day is None else [day]
    if not table_exists(settings, table_of(name)):
        raise NotFoundError(
            f"The lake has no request log of {name}.",
            remedy="Nothing has been committed yet (`forecache log spool` says what waits), or it declares no `Log`: "
            f"add log=Log(...) and run `forecache release {name}`; answers of before are not in it.",
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
    return sorted(rows, key=lambda row: (row["arm"] != "shadow", row["arrived_at"]), reverse=True)


def candidate_labels(record: dict[str, Any], release: Release | None) -> list[Any] | None:
    """Return the name of each candidate of a logged request, in its order; None if the request ranks no candidates.

    Args:
        release: The release that answered; None if it no longer exists.
    """
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
    try:
        request = orjson.loads(record["request"])
    except orjson.JSONDecodeError:
        return None
    if not isinstance(request, dict):
        return None
    if release is not None and release.candidates is not None:
        found = request.get(release.candidates.name)
        return found if isinstance(found, list) else None
    lists = (each for each in request.values() if isinstance(each, list) and len(each) == record["items"])
    return next(lists, None)


def read_background(settings: Settings, name: str, record: dict[str, Any], place: int) -> tuple[np.ndarray, str]:
    """Read up to `BACKGROUND_ROWS` other rows of the same release and day; returns them and their description.

    Args:
        place: The explained row of the record, which is left out.
    """
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
