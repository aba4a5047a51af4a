"""The stage that writes the training set of a real-time model from past requests, and keeps a sample of these."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import xxhash

from forecache.base.errors import InputError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import POSITION, REQUEST_ID
from forecache.declare import AS_OF, FeatureView, Realtime
from forecache.declare.as_of import require_within
from forecache.kit.delta.files import DataFile, place_of, read_file_rows
from forecache.kit.delta.tables import replace_table
from forecache.kit.delta.writers import write_frame
from forecache.lake.contracts import function_name, require_labels
from forecache.lake.engine import decide_engine, find_spark_functions
from forecache.lake.feature_rows import view_inputs
from forecache.lake.labelled_rows import SPLITS
from forecache.lake.sources import Pins, require_delivered, source_states, state_history
from forecache.lake.stage_runner import Stage, StageOutcome, adopt_table, hold_table_lock
from forecache.lake.training_set import STAGE
from forecache.operations.release import record_requests, requests_file
from forecache.plugins.historical_features.requests import logged_state, request_days, request_rows, span_of
from forecache.plugins.historical_features.transform import look_up, transform_requests

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame


_REQUESTS = 50


def choose_requests(realtime: Realtime, requests: "DataFrame") -> list[str]:
    """The texts of 50 requests of the last day that has any, chosen by a hash of their ids."""
    from pyspark.sql import functions as F

    last = requests.select(F.max(AS_OF)).collect()[0][0]
    ids = requests.where(F.col(AS_OF) == F.lit(last)).select(REQUEST_ID).distinct()
    chosen = [row[0] for row in ids.orderBy(F.xxhash64(REQUEST_ID), REQUEST_ID).limit(_REQUESTS).collect()]
    rows = requests.where((F.col(AS_OF) == F.lit(last)) & F.col(REQUEST_ID).isin(chosen))
    by_id: dict[str, list[Any]] = {}
    for row in rows.orderBy(REQUEST_ID, POSITION).collect():
        by_id.setdefault(row[REQUEST_ID], []).append(row)
    return [json.dumps(request_of_rows(realtime, some), separators=(",", ":")) for some in by_id.values()]


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


_LEAST_FILES, _ROWS_OF_A_FILE = 8, 1_000_000
_DAY = timedelta(days=1)


def build_examples(
    settings: Settings,
    realtime: Realtime,
    night: date,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the training set of a real-time model as of a night, replacing the previous one (which stays readable as a
    Delta version). With `rebuild` also if that is current; a model is then trained on the new version.

    Each request has the features that its look-ups would have found when it was made: those of the as-of date that had
    ended. The declared transform is called for each request as in serving. The table `training_set_<name>` has
    `request_id`, `position`, `as_of` (the day of the request), `split`, the features (float32), the label and its
    weight (double); a request is whole in a file, its rows in order.

    Returns:
        `details` has, by split: `splits` (rows), `requests`, `as_of` (ISO dates); and `label_mean` by day.

    Raises:
        InputError: A night, split, request or label is not valid, or the transform fails. The table is unchanged.
    """
    stage = Stage(settings, STAGE, realtime.name, run_id)
    pins = Pins(settings)
    require_within(realtime, [night])
    days = request_days(realtime, night)
    for source in realtime.trained_examples.sources:
        require_delivered(settings, source, [night], pins=pins)
    with hold_table_lock(settings, realtime.training_table, run_id, progress):
        inputs = examples_inputs(settings, realtime, night, days, pins)

        def build() -> StageOutcome:
            if not rebuild:
                table, state = realtime.training_table, (requests_file(realtime.name),)
                adopted = adopt_table(stage, table, inputs, state=state, progress=progress)
                if adopted is not None:
                    return adopted
            progress(f"training set of {realtime.name} as of {night}", None)
            return _build(settings, realtime, days, pins=pins, run_id=run_id, progress=progress)

        row, skipped = stage.run_once(inputs, build, rebuild=rebuild)
    return stage.result(
        row.rows, nights=[night], table=row.table, version=row.delta_version, skipped=skipped, details=row.details
    )


def examples_inputs(
    settings: Settings, realtime: Realtime, night: date, days: Mapping[str, Sequence[date]], pins: Pins
) -> str:
    """Text of all that a training set depends on: the rows that it may use, declared values, the project's code."""
    examples, (first, last) = realtime.trained_examples, span_of(days)
    before = first - timedelta(days=examples.history_days)
    raw = source_states(settings, examples.sources, [night], pins=pins)[night]
    raw += "".join(state_history(settings, source, before, night, pins=pins) for source in examples.sources)
    seen = first - _DAY * (2 if examples.published_h else 1)
    # Of a live view a request sees events of its own day.
    until = {view.name: last if view.live else last - _DAY for view in realtime.views}
    views = " ".join(
        f"{view.name}={_features_digest(settings, view, seen, until[view.name], pins)}" for view in realtime.views
    )
    ages = ",".join(f"{each.called}:{each.max_age_h}" for each in realtime.lookups)
    of_splits = ",".join(f"{split}:{days[split][0]}..{days[split][-1]}" for split in SPLITS)
    most = realtime.candidates.most if realtime.candidates else 1
    read = f"ages={ages} published={examples.published_h} most={most} days={of_splits}"
    log = f" log={logged_state(settings, realtime, first, last)}" if examples.from_log else ""
    return f"{raw} {views} {read} examples={realtime.examples_fingerprint}{log}"


def _features_digest(settings: Settings, view: FeatureView, first: date, last: date, pins: Pins) -> str:
    """A digest that changes if the features of any as-of date in the range change."""
    end = min(last, view.end or last)
    start = min(max(first, view.start), end)
    nights = [start + timedelta(days=number) for number in range((end - start).days + 1) if start >= view.start]
    inputs = view_inputs(settings, view, nights, pins=pins)
    return xxhash.xxh3_128_hexdigest("\n".join(f"{night} {inputs[night]}" for night in nights).encode())


def _build(
    settings: Settings,
    realtime: Realtime,
    days: Mapping[str, Sequence[date]],
    *,
    pins: Pins,
    run_id: str,
    progress: Progress,
) -> StageOutcome:
    needs_spark = find_spark_functions(realtime.views, realtime.trained_examples.compute)
    spark = decide_engine(settings, needs_spark=needs_spark).session()
    requests = request_rows(spark, settings, realtime, days, pins).persist()
    try:
        files = max(_LEAST_FILES, -(-requests.count() // _ROWS_OF_A_FILE))
        looked_up = look_up(spark, settings, realtime, requests, pins=pins, progress=progress)
        frame = transform_requests(looked_up, realtime, files=files)
        progress(f"transforming the requests of {realtime.name}", None)
        schema, written_files = write_frame(frame, settings, realtime.training_table, fit=False)
        written = _read_labels(settings, realtime, written_files)
        require_labels(written, realtime)
        details = _details(realtime, days, written)
        version = replace_table(settings, realtime.training_table, schema, written_files, run_id=run_id)
        record_requests(settings, realtime.name, choose_requests(realtime, requests))
    finally:
        requests.unpersist()
    sources = [*realtime.trained_examples.sources, *(source for view in realtime.views for source in view.sources)]
    return StageOutcome(written.num_rows, {**details, **pins.details(sources)}, realtime.training_table, version)


def _read_labels(settings: Settings, realtime: Realtime, files: Sequence[DataFile]) -> "pa.Table":
    """`request_id`, `split`, `as_of` and the label of every row of a training set's files."""
    import pyarrow as pa

    labels = [pa.field(name, pa.float64()) for name in realtime.trained_examples.columns]
    schema = pa.schema([(REQUEST_ID, pa.string()), ("split", pa.string()), (AS_OF, pa.date32()), *labels])
    filesystem = place_of(settings, realtime.training_table).open()
    return pa.Table.from_batches(read_file_rows(filesystem, realtime.training_table, files, schema), schema)


def _details(realtime: Realtime, days: Mapping[str, Sequence[date]], written: "pa.Table") -> dict[str, Any]:
    """Rows, requests and days by split, and the mean label by day; InputError if a split has no request."""
    label = realtime.trained_examples.label
    counts = written.group_by(["split"]).aggregate([([], "count_all"), (REQUEST_ID, "count_distinct")]).to_pylist()
    rows = {row["split"]: row["count_all"] for row in counts}
    for split in SPLITS:
        if not rows.get(split):
            first, last = days[split][0], days[split][-1]
            raise InputError(
                f"The {split} split of {realtime.name!r} has no request from {first} to {last}.",
                remedy=f"Ingest the days that {function_name(realtime.trained_examples.compute)} makes "
                "requests from, or "
                "train as of another date.",
            )
    means = written.group_by([AS_OF]).aggregate([(label, "mean")]).to_pylist()
    requests = {row["split"]: row[f"{REQUEST_ID}_count_distinct"] for row in counts}
    return {
        "splits": {split: rows[split] for split in SPLITS},
        "requests": {split: requests[split] for split in SPLITS},
        "as_of": {split: [day.isoformat() for day in days[split]] for split in SPLITS},
        "label_mean": dict(sorted((row[AS_OF].isoformat(), row[f"{label}_mean"]) for row in means)),
    }
