"""Read records of the request log: the values of a request, and the features, scores and order of its answer.

Used by training from the log and by everything that shows, explains or replays logged answers; only they import this
module, which needs numpy. Requests are logged as JSON, with texts in place of numbers that are not finite.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from forecache.base.ranking import descending_order
from forecache.declare.realtime.request_rows import RequestSchema

NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""The text for a number that is not finite in the log, by Python's text for it."""
_TEXTS = frozenset(NOT_FINITE.values())


def read_logged_request(
    data: Mapping[str, Any], asked: RequestSchema
) -> tuple[dict[str, Any], dict[str, list[Any]] | None]:
    """Read the values of a logged request and of its candidates by field, as `RowsBuilder.build_columns` takes them.

    Args:
        data: The request, parsed from JSON.
    """
    request = dict(data)
    for field in asked.request:
        if field.type == "double":
            request[field.name] = _parse_number(data.get(field.name))
    if asked.candidates is None:
        return request, None
    fields, listed = asked.candidates.fields, data[asked.candidates.name]
    if listed and not isinstance(listed[0], dict):
        listed = [{fields[0].name: each} for each in listed]
    lists = {field.name: [each.get(field.name) for each in listed] for field in fields}
    for field in fields:
        if field.type == "double":
            lists[field.name] = [_parse_number(value) for value in lists[field.name]]
    return request, lists


def features_of(record: Mapping[str, Any]) -> np.ndarray | None:
    """The features of a record, float32 [items, num_features], as the model got them; None if it was not called."""
    content, items = record["features"], record["items"]
    return None if content is None else np.frombuffer(content, "<f4").reshape(items, -1)


def scores_of(record: Mapping[str, Any]) -> np.ndarray | None:
    """The scores [items] of a record, in the order of the request and in the model's dtype; None if it has none."""
    content = record["scores"]
    return None if content is None else np.frombuffer(content, record["score_dtype"])


def order_of(record: Mapping[str, Any]) -> np.ndarray:
    """The order of the candidates in the answer: their positions in the request [items], best first."""
    if record["ranking"] is not None:
        return np.asarray(record["ranking"], np.intp)
    scores = scores_of(record)
    return np.arange(record["items"]) if scores is None else descending_order(scores)


def _parse_number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in _TEXTS else value
