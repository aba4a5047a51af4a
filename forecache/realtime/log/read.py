"""Read a request log, without Spark, and show its records to people and scripts."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import orjson

from forecache.base.settings import Settings
from forecache.declare.realtime.request_rows import features_of, order_of, scores_of
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.log import active_files, read_entry
from forecache.kit.delta.tables import open_table
from forecache.realtime.log.record import DAY, TIMES, schema, table_of

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


_BATCH_ROWS = 4096


def newest_day(files: Iterable[DataFile]) -> date | None:
    """Return the newest complete day (UTC) of a log's files, else the newest day; None if there are no files."""
    days = {date.fromisoformat(str(file.partition[DAY])) for file in files}
    today = datetime.now(timezone.utc).date()
    return max({day for day in days if day < today} or days, default=None)


def read_log(
    settings: Settings,
    name: str,
    *,
    days: Collection[date] | None = None,
    request_id: str | None = None,
    since: datetime | None = None,
    columns: Sequence[str] | None = None,
    version: int | None = None,
) -> "Iterator[pa.RecordBatch]":
    """Read the logged answers of a model, day by day in ascending order.

    Args:
        days: Dates in UTC; None: all.
        request_id: Only the answers to this request.
        since: Only the answers to requests that arrived at this time (with a time zone) or later.
        columns: Names; None: all of `forecache.realtime.log.record.schema`.
        version: Delta version of the table; None: the newest.

    Raises:
        NotFoundError: Nothing of the model has been logged, or there is no such version.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = schema().names if columns is None else list(columns)
    table = open_table(settings, table_of(name), version=version)
    filesystem = place_of(settings, table_of(name)).open()
    asked = None if days is None else {day.isoformat() for day in days}
    filters = None if request_id is None else pc.field("request_id") == request_id
    files = [file for file in active_files(table) if asked is None or file.partition[DAY] in asked]
    if since is not None:
        arrived = pc.field("arrived_at") >= pa.scalar(since, pa.timestamp("us", tz="UTC"))
        filters = arrived if filters is None else filters & arrived
        recent = _paths_since(table, since)
        files = [file for file in files if file.path in recent]
    for file in sorted(files, key=lambda each: (str(each.partition[DAY]), each.path)):
        stored = [each for each in wanted if each != DAY]
        with open_data_file(filesystem, file.path, table_of(name)) as source:
            if filters is not None:
                batches = pq.read_table(source, columns=stored, filters=filters, use_threads=False).to_batches()
            else:
                batches = pq.ParquetFile(source).iter_batches(_BATCH_ROWS, columns=stored, use_threads=False)
            for batch in batches:
                day = pa.array([date.fromisoformat(str(file.partition[DAY]))] * batch.num_rows, pa.date32())
                arrays = [day if each == DAY else batch.column(each) for each in wanted]
                yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema([schema().field(each) for each in wanted]))


def read_newest(settings: Settings, name: str, *, rows: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Read the newest rows of a log, at most so many, the newest last; only the newest days are read."""
    found: list[dict[str, Any]] = []
    for batch in read_log(settings, name, days=_newest_days(settings, name, rows), columns=columns):
        found = [*found, *batch.slice(max(0, len(batch) - rows)).to_pylist()][-rows:]
    return found


def _newest_days(settings: Settings, name: str, rows: int) -> set[date]:
    """The newest days (UTC) of a log that have so many rows together, or all its days."""
    found = Counter[date]()
    for file in active_files(open_table(settings, table_of(name))):
        found[date.fromisoformat(str(file.partition[DAY]))] += file.rows
    chosen = set[date]()
    for day in sorted(found, reverse=True):
        if rows <= 0:
            break
        chosen.add(day)
        rows -= found[day]
    return chosen


def _paths_since(table: "DeltaTable", since: datetime) -> set[str]:
    """Paths of the files that may have requests since then, by the statistics in the Delta log."""
    actions = table.get_add_actions(flatten=True)
    if "max.arrived_at" not in actions.schema.names:
        return {unquote(path) for path in actions.column("path").to_pylist()}
    pairs = zip(actions.column("path").to_pylist(), actions.column("max.arrived_at").to_pylist(), strict=True)
    return {unquote(path) for path, newest in pairs if newest is None or newest >= since}


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
    """Read the rows that each version of a log's table after `version` added, with the version; merges add none."""
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
    return value.astimezone(timezone.utc).strftime("%m-%d %H:%M:%S.%f")[:-3]
