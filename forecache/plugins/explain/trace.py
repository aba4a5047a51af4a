"""The chain from a served answer to its data, its model, its runs and its code."""

import json
from datetime import date, datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from forecache.base.errors import ForecacheError, NotFoundError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.table_names import FEATURES, kept_name, split_kept_name
from forecache.cli.commands.get import open_answers
from forecache.cli.output import json_value
from forecache.declare import TableSource
from forecache.declare.served import PluginTable
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.small_tables import read_small_table
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import LEDGER_TABLE, last_record
from forecache.models.registry.applied.pipeline_models import model_of
from forecache.plugins.explain.pipeline_contributions import explain_prediction
from forecache.serve.store.encoding.streamed_rows import open_stream_table
from forecache.serve.store.keys import decode_key, parse_key
from forecache.serve.store.manifest import no_such_key_error
from forecache.serve.store.publishing.overlay import unseen_rows

if TYPE_CHECKING:
    from forecache.declare import AnySource, FeatureView, Pipeline
    from forecache.serve.store import Manifest
    from forecache.serve.store.live.layer import LiveLayer


_OF_KAFKA = ("kafka_partition", "kafka_offset", "kafka_at", "received_at", "event_day", "late")
_OF_MODEL = ("model_version", "release", "feature_version")


def trace_stream(current: Settings, name: str, key: str) -> dict[str, Any]:
    """The chain of a key that only a stream has: `answer` and `live`, see `live_link`."""
    with open_answers(current, name) as answers:
        assert answers.layer is not None
        declared = answers.layer.declared
        key_bytes = parse_key(declared.key, key)
        body = answers.one(key_bytes)
    if body is None:
        raise NotFoundError(
            f"{name} has no key {key!r}.",
            remedy=f"Its keys are values of {', '.join(declared.key.names)} in recent rows of {declared.table}.",
        )
    answer = json.loads(body)
    where = dict(zip(declared.key.names, decode_key(declared.key, key_bytes), strict=True))
    return {"answer": answer, "live": live_link(current, declared, answer, where)}


def live_link(
    current: Settings, declared: "LiveLayer", answer: dict[str, Any], where: dict[str, Any]
) -> dict[str, Any]:
    """The link from a live answer to its row in the stream's table.

    It has `stream`, `table`, `position`, `event_time` and `verified_through`; from the row `place`, the columns of
    Kafka and of its model, and the others as `row`. `missing` has the reason if there is no row.
    """
    link: dict[str, Any] = {"stream": declared.stream, "table": declared.table}
    link |= {name: answer[name] for name in ("position", "event_time", "verified_through")}
    if link["event_time"] is None:
        return link | {
            "missing": f"no event has come since {answer['feature_version']}, which is merged as of {answer['as_of']}"
        }
    if link["position"] is None:
        return link | {"missing": "the row is pending: the commit that will hold it has not been made yet"}
    rows = _read_rows(
        current, declared.table, None, {"position": link["position"], **where}, link, missing=ForecacheError
    )
    if not rows:
        link.setdefault("missing", f"{declared.table} has no such row")
        return link
    newest = datetime.fromisoformat(link["event_time"])
    shown = max(rows, key=lambda row: (row[declared.event_time] == newest, row["place"]))
    return link | _streamed_row(shown)


def _streamed_row(found: dict[str, Any]) -> dict[str, Any]:
    """A row of a stream's table as parts of a link: `place`, the columns of Kafka and of its model, and others as
    `row`."""
    link: dict[str, Any] = {}
    row = {name: json_time(value) for name, value in found.items()}
    link["place"] = row.pop("place", None)
    for name in (*_OF_KAFKA, *_OF_MODEL):
        link[name] = row.pop(name, None)
    for name in ("position", "hour"):
        row.pop(name, None)
    return link | {"row": row}


def _included_link(
    current: Settings, manifest: "Manifest", declared: "LiveLayer", where: dict[str, Any]
) -> dict[str, Any] | None:
    """The link, as `live_link`, to the streamed row that a version has instead of its batch's; None without one."""
    filters = [(name, "=", value) for name, value in where.items()]
    try:
        table = open_stream_table(current, declared.table)
        names = open_dataset(open_table(current, declared.table)).schema.names
        rows = unseen_rows(
            table,
            manifest.key,
            names,
            declared.fields,
            night=date.fromisoformat(manifest.as_of),
            cut=manifest.cut,
            only=pq.filters_to_expression(filters),
        )
    except (ForecacheError, DeltaError, FileNotFoundError):
        return None
    if rows is None:
        return None
    (row,) = rows.to_pylist()
    link = {"stream": declared.stream, "table": declared.table, "position": row["position"], "verified_through": None}
    return link | {"event_time": json_time(row[declared.event_time])} | _streamed_row(row)


def live_lines(link: dict[str, Any]) -> list[str]:
    if "missing" in link:
        return [f"not available: {link['missing']}"]
    made = ", ".join(f"{name.replace('_', ' ')} {link[name]}" for name in _OF_MODEL if link[name] not in (None, ""))
    late = ", of a day that a nightly run had already read" if link["late"] else ""
    return [
        ", ".join(f"{name}={value}" for name, value in link["row"].items()),
        f"Kafka partition {link['kafka_partition']}, offset {link['kafka_offset']}, at {link['kafka_at']}",
        f"event at {link['event_time']}{late}; here at {link['received_at']}",
        f"made by {made}" if made else "",
        _verified_text(link["verified_through"]),
    ]


def _verified_text(version: int | None) -> str:
    if version is None:
        return "the version below has this row instead of its batch's"
    if version < 0:
        return "the live layer has not been compared with the table yet"
    return f"the live layer was last found equal to the table at version {version}"


def live_title(link: dict[str, Any]) -> str:
    if link["event_time"] is None:
        return f"no event of the stream {link['stream']}"
    if link["position"] is None:
        return f"pending row of the stream {link['stream']}"
    return f"streamed row in {link['table']} at position {link['position']}, place {link.get('place', '?')}"


class TracedAnswer(NamedTuple):
    """The answer for a key with its origin: the served version, the key's columns, and the live layer if it answers."""

    manifest: "Manifest"
    answer: dict[str, Any]
    where: dict[str, Any]
    live: "LiveLayer | None"
    included: "LiveLayer | None"  # if the version may have a streamed row of the key


def trace(current: Settings, pipeline: "Pipeline", key: str, *, version: int | None = None) -> dict[str, Any]:
    """The chain from an answer to its sources, one entry per link.

    It has `answer`, `live` (if streamed), `store`, `prediction`, `features`, `raw` (a list, one per source) and
    `model`. A link whose Delta version was vacuumed, or whose model was deleted, has `missing` with the reason. Raises
    NotFoundError if nothing is published, or if the version does not have the key.
    """
    found = find_answer(current, pipeline.name, key, version)
    manifest, where = found.manifest, found.where
    night = date.fromisoformat(manifest.as_of)
    chain: dict[str, Any] = answer_links(current, found)
    prediction = row_link(current, manifest.source.table, manifest.source.delta_version, where, night)
    by_run = prediction.get("row", {}).get("run_id")
    chain["prediction"] = prediction | ledger_record(current, "score", pipeline.name, night, run_id=by_run)
    feature_version = prediction.get("row", {}).get("feature_version", manifest.provenance.feature_version)
    scored_from = find_scored_table(pipeline, chain["prediction"].get("inputs", ""), feature_version)
    features = row_link(current, scored_from, feature_version, where, night)
    subject = scored_from.removeprefix(FEATURES)
    made = ledger_record(current, "features", subject, night, delta_version=feature_version)
    chain["features"] = features | made
    chain["raw"] = [
        _source_link(current, source, _view_record(current, pipeline, view, subject, made, night), where, night)
        for view in pipeline.views
        for source in view.sources
    ]
    chain["model"] = _model_link(current, pipeline, manifest, prediction.get("row", {}))
    if "row" in features and "missing" not in chain["model"]:
        scored_by = int(prediction.get("row", {}).get("model_version", manifest.provenance.model_version))
        try:
            chain["contributions"] = explain_prediction(
                current, pipeline, scored_by, scored_from, feature_version, night, features["row"]
            )
        except ForecacheError as error:
            chain["contributions"] = {"missing": error.message}
    return chain


def trace_view(current: Settings, view: "FeatureView", key: str, *, version: int | None = None) -> dict[str, Any]:
    """The chain from published features to their sources: `answer`, `store`, `features` and `raw`, as of `trace`."""
    found = find_answer(current, view.name, key, version)
    manifest, where = found.manifest, found.where
    night, at = date.fromisoformat(manifest.as_of), manifest.source.delta_version
    made = ledger_record(current, "features", view.name, night, delta_version=at)
    return {
        **answer_links(current, found),
        "features": row_link(current, manifest.source.table, at, where, night) | made,
        "raw": [_source_link(current, source, made, where, night) for source in view.sources],
    }


def find_answer(current: Settings, name: str, key: str, version: int | None) -> TracedAnswer:
    """Find the answer for a key, its version and columns, and the live layer if that answers; raises as `trace`."""
    with open_answers(current, name, version) as answers:
        manifest = answers.manifest
        key_bytes = parse_key(manifest.key, key)
        body = answers.one(key_bytes)
    if body is None:
        raise no_such_key_error(manifest, key)
    answer = json.loads(body)
    where = dict(zip(manifest.key.names, decode_key(manifest.key, key_bytes), strict=True))
    layer = answers.layer.declared if answers.layer else None
    is_live = answer["source"] == "live"
    return TracedAnswer(
        manifest, answer, where, layer if is_live else None, None if is_live or not manifest.streamed else layer
    )


def answer_links(current: Settings, found: TracedAnswer) -> dict[str, Any]:
    """The first links of a chain: `answer`, `live` of a streamed one, and `store`, the served version."""
    link = None
    if found.live is not None:
        link = live_link(current, found.live, found.answer, found.where)
    elif found.included is not None:
        link = _included_link(current, found.manifest, found.included, found.where)
    return {"answer": found.answer, **({"live": link} if link else {}), "store": store_link(found.manifest)}


def store_link(manifest: "Manifest") -> dict[str, Any]:
    names = ("version", "kind", "rows", "content_hash", "published_at", "run_id", "code_version")
    source = {"table": manifest.source.table, "delta_version": manifest.source.delta_version}
    return {name: getattr(manifest, name) for name in names} | source


def row_link(current: Settings, table: str, version: int, where: dict[str, Any], night: date) -> dict[str, Any]:
    """The row of a key and as-of date at a Delta version of a table."""
    link: dict[str, Any] = {"table": table, "delta_version": version}
    rows = _read_rows(current, table, version, {**where, "as_of": night}, link)
    if rows:
        link["row"] = {name: json_time(value) for name, value in rows[0].items()}
    elif "missing" not in link:
        link["missing"] = f"{table} has no such row at Delta version {version}"
    return link


def _read_rows(
    current: Settings,
    table: str,
    version: int | None,
    where: dict[str, Any],
    link: dict[str, Any],
    *,
    missing: type[ForecacheError] = NotFoundError,
) -> list[dict[str, Any]]:
    filters = [(name, "=", value) for name, value in where.items()]
    try:
        dataset = open_dataset(open_table(current, table, version=version))
        rows: list[dict[str, Any]] = dataset.to_table(filter=pq.filters_to_expression(filters)).to_pylist()
    except (missing, DeltaError, FileNotFoundError) as error:
        link["missing"] = str(error).splitlines()[0]
        return []
    return rows


def ledger_record(
    current: Settings,
    stage: str,
    subject: str,
    night: date,
    *,
    delta_version: int | None = None,
    run_id: str | None = None,
) -> dict[str, Any]:
    """The ledger's last record of the stage that made an as-of date, at `delta_version` or by `run_id` if given."""
    filters: list[tuple[str, str, Any]] = [("stage", "=", stage), ("subject", "=", subject), ("as_of", "=", night)]
    if delta_version is not None:
        filters.append(("delta_version", "=", delta_version))
    if run_id is not None:
        filters.append(("run_id", "=", run_id))
    rows = sorted(read_small_table(current, LEDGER_TABLE, filters), key=itemgetter("recorded_at"))
    if not rows:
        return {}
    names = ("inputs", "run_id", "code_version", "recorded_at")
    pinned = json.loads(rows[-1]["details"]).get("pinned")
    return {name: json_time(rows[-1][name]) for name in names} | ({"pinned": pinned} if pinned else {})


def _source_link(
    current: Settings, source: "AnySource", made: dict[str, Any], where: dict[str, Any], night: date
) -> dict[str, Any]:
    """The events of a key in a source; for an existing table, the version that was read."""
    if isinstance(source, TableSource):
        pinned = made.get("pinned", {}).get(source.name, {})
        version = pinned.get("version")
        missing = "an existing table, whose rows are not looked up here"
        return {"table": pinned.get("uri", source.uri), "delta_version": version, "missing": missing}
    version = _raw_version(made.get("inputs", ""), source.raw_table)
    of_key = {column.name: where[column.name] for column in source.columns if column.name in where}
    if not of_key:
        missing = "its rows are not of the pipeline's key"
        return {"table": source.raw_table, "delta_version": version, "missing": missing}
    return events_link(current, source.raw_table, version, of_key, night)


def _view_record(
    current: Settings, pipeline: "Pipeline", view: "FeatureView", subject: str, made: dict[str, Any], night: date
) -> dict[str, Any]:
    """The ledger record of a view's as-of date: that of the features, or if they are joined, the one that it names."""
    if not pipeline.is_joined:
        return made
    inputs, contract = made.get("inputs", ""), split_kept_name(subject)
    for name in [view.name, *([kept_name(view.name, contract[1])] if contract else [])]:
        version = _raw_version(inputs, FEATURES + name)
        if version is not None:
            return ledger_record(current, "features", name, night, delta_version=version)
    return {}


def find_scored_table(pipeline: "Pipeline", inputs: str, version: int) -> str:
    """The feature table in the `inputs` of a score record: that of the pipeline, or of its earlier features."""
    tables = (word.removesuffix(f"@{version}") for word in inputs.split() if word.endswith(f"@{version}"))
    kept = f"{FEATURES}{pipeline.name}__"
    return next((table for table in tables if table.startswith(kept)), pipeline.feature_table)


def _raw_version(inputs: str, table: str) -> int | None:
    """A table's Delta version in the `inputs` of a features record ("raw_purchases@12 code=...")."""
    for word in inputs.split():
        name, at, version = word.partition("@")
        if at and name == table and version.lstrip("-").isdigit():
            return int(version)
    return None


def events_link(
    current: Settings, table: str, version: int | None, where: dict[str, Any], night: date
) -> dict[str, Any]:
    """The events of a key up to the as-of date, and their landing files."""
    link: dict[str, Any] = {"table": table, "delta_version": version}
    rows = [row for row in _read_rows(current, table, version, where, link) if row["event_day"] <= night]
    rows.sort(key=lambda row: (row["event_day"], row["source_file"], row["source_line"]))
    link["events"] = len(rows)
    if rows:
        link["first"], link["last"] = rows[0]["event_day"].isoformat(), rows[-1]["event_day"].isoformat()
        link["lines"] = [{"file": row["source_file"], "line": row["source_line"]} for row in rows]
    return link


def _model_link(current: Settings, pipeline: "Pipeline", manifest: "Manifest", row: dict[str, Any]) -> dict[str, Any]:
    version = row.get("model_version", manifest.provenance.model_version)
    try:
        return model_of(current, pipeline, version).as_dict()
    except (NotFoundError, UnavailableError) as error:
        return {"name": row.get("model_name", pipeline.name), "version": version, "missing": error.message}


def json_time(value: Any) -> Any:
    return json_value(value) if isinstance(value, (date, datetime)) else value


def trace_list(current: Settings, served: PluginTable, key: str, *, version: int | None = None) -> dict[str, Any]:
    """The chain from a recommender's list or vector to its sources, one entry per link; raises as `trace`.

    It has `answer`, `store`, `prediction`, `interactions` (of the user or item) and `model`, with the gate's figures.
    """
    recommender: Any = served.maker
    found = find_answer(current, served.name, key, version)
    manifest, where = found.manifest, found.where
    night = date.fromisoformat(manifest.as_of)
    prediction = row_link(current, manifest.source.table, manifest.source.delta_version, where, night)
    made_from = prediction.get("row", {}).get("feature_version", manifest.provenance.feature_version)
    interactions = events_link(current, recommender.source.raw_table, made_from, where, night)
    if recommender.history_days is not None:
        interactions["since"] = (night - timedelta(days=recommender.history_days - 1)).isoformat()
    record = last_record(current, "recommend", recommender.name, night)
    # The record is of the latest run of the date, whose result may not be the served one.
    is_same = record is not None and record.details.get("source_version") == made_from
    return {
        **answer_links(current, found),
        "prediction": prediction | ledger_record(current, "recommend", recommender.name, night),
        "interactions": interactions,
        "model": {
            "name": manifest.provenance.model_name,
            "version": manifest.provenance.model_version,
            "declared": repr(recommender.model),
            **({"gate": dict(record.details)} if record is not None and is_same else {}),
            **({} if is_same else {"missing": f"the figures of its gate: {night} was done again since"}),
        },
    }
