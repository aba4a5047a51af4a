"""Show records of the request log to people and scripts."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson

from forecache.base.settings import Settings
from forecache.declare.realtime.log_records import features_of, order_of, scores_of
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import read_entry
from forecache.realtime.log.record import DAY, TIMES, schema, table_of

if TYPE_CHECKING:
    import pyarrow as pa


def record_as_json(record: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a record to JSON values, with its request, features and scores decoded; NaN becomes null.

    `order` are the indices of the candidates in the request, best first.
    """
    shown = {name: record[name] for name in schema().names if name not in (DAY, "ranking", *TIMES)}
    features, scores = features_of(record), scores_of(record)
    return {
        **shown,
        "arrived_at": record["arrived_at"].astimezone(timezone.utc).isoformat().replace("+00:00", "Z"),
        "request": _json(record["request"]),
        "features": None if features is None else _numbers(features),
        "scores": None if scores is None else _numbers(scores),
        "order": order_of(record).tolist(),
        "times_us": {name.removesuffix("_us"): record[name] for name in TIMES},
    }


def read_commits_since(settings: Settings, name: str, version: int) -> "Iterator[tuple[int, pa.Table]]":
    """Read the rows that each version of a log's table after `version` added, with the version; merges add none.

    Args:
        version: The last Delta version that was read.
    """
    import pyarrow.parquet as pq

    table = table_of(name)
    filesystem = place_of(settings, table).open()
    while True:
        try:
            actions = read_entry(filesystem, version + 1, table)
        except FileNotFoundError:
            return
        version += 1
        for action in actions:
            if "add" in action and action["add"].get("dataChange", True):
                with open_data_file(filesystem, unquote(action["add"]["path"]), table) as source:
                    yield version, pq.read_table(source, use_threads=False)


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")


def _numbers(values: Any) -> Any:
    return orjson.loads(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY))


def format_arrival(value: datetime) -> str:
    """Format a time of arrival for a table."""
    return value.astimezone(timezone.utc).strftime("%m-%d %H:%M:%S.%f")[:-3]
