"""A sample of past requests, as a client would send them, to verify and warm up a release."""

import json
import math
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.files import write_durably
from forecache.base.settings import Settings
from forecache.base.table_names import POSITION, REQUEST_ID
from forecache.declare import AS_OF, Realtime

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_REQUESTS = 50


def recorded_requests_file(settings: Settings, name: str) -> Path:
    """Path of a JSON list of the texts of requests."""
    return settings.home_path / "realtime" / name / "requests.json"


def record_requests(settings: Settings, realtime: Realtime, requests: "DataFrame") -> None:
    """Write 50 requests of the last day that has any, chosen by a hash of their ids, to `recorded_requests_file`."""
    from pyspark.sql import functions as F

    last = requests.select(F.max(AS_OF)).collect()[0][0]
    ids = requests.where(F.col(AS_OF) == F.lit(last)).select(REQUEST_ID).distinct()
    chosen = [row[0] for row in ids.orderBy(F.xxhash64(REQUEST_ID), REQUEST_ID).limit(_REQUESTS).collect()]
    rows = requests.where((F.col(AS_OF) == F.lit(last)) & F.col(REQUEST_ID).isin(chosen))
    by_id: dict[str, list[Any]] = {}
    for row in rows.orderBy(REQUEST_ID, POSITION).collect():
        by_id.setdefault(row[REQUEST_ID], []).append(row)
    texts = [json.dumps(request_of_rows(realtime, some), separators=(",", ":")) for some in by_id.values()]
    file = recorded_requests_file(settings, realtime.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, json.dumps(texts))


def request_of_rows(realtime: Realtime, rows: list[Any]) -> dict[str, Any]:
    """The request that these rows belong to, as decoded JSON."""
    request = {field.name: _to_json_value(rows[0][field.name]) for field in realtime.request}
    if realtime.candidates is None:
        return request
    fields = [field.name for field in realtime.candidates.fields]
    listed = [{name: _to_json_value(row[name]) for name in fields} for row in rows]
    plain = [each[fields[0]] for each in listed] if len(fields) == 1 else listed
    return {**request, realtime.candidates.name: plain}


def _to_json_value(value: Any) -> Any:
    if isinstance(value, datetime):  # PySpark returns local time
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date) else value
