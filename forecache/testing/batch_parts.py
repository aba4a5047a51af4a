"""The parts of a pipeline on rows that a test gives, in a temporary home: features, labels, gate, answers.

Each calls the functions of a nightly run. Windows and SQL need no Spark; a function on Spark's frames starts it.
"""

import datetime
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from forecache.base.errors import InputError
from forecache.declare import AS_OF, FeatureView, Pipeline, Realtime
from forecache.declare.sources.column import key_types
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import append_rows, open_table, replace_table
from forecache.lake.contracts import class_order, require_labels, require_one_row_each
from forecache.lake.features import build_features, build_view
from forecache.lake.frame import Frame, read_frame
from forecache.lake.ingest.typed_rows import TYPES
from forecache.lake.provenance import Stamp
from forecache.lake.sources import Pins
from forecache.lake.split_rows import label_numbers
from forecache.lake.training_set import write_rows_of_dates
from forecache.models.inference.encoding import FeatureEncoding, MatrixEncoding
from forecache.models.registry.gate.examples import SplitExamples
from forecache.models.registry.gate.gate_checks import check_scores
from forecache.models.registry.gate.metric_judge import judge_of, score_baselines
from forecache.models.registry.gate.verdicts import GateVerdict
from forecache.notebook import Date, read_day
from forecache.scoring.frame_scores import predict_rows
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import encode_key, open_store, publish
from forecache.testing.given_model import open_given_model
from forecache.testing.given_rows import land_rows, temporary_home


def features(declared: Pipeline | FeatureView, rows: Mapping[str, Any], *, date: Date) -> Frame:
    """The features of a pipeline or view on an as-of date, from rows of its sources: key, `as_of`, features.

    Args:
        rows: By the name of a source its rows, also those after the date: a frame of pandas, polars or Arrow, or a list
            of dicts. A source that is left out has no rows, and a column that is left out is null. Of a snapshot the
            rows are its state on `date`, or states of several days by the column `event_day`.

    Returns:
        One row for each entity, sorted by the key.

    Raises:
        InputError: There is no such source or column, a row would be quarantined, or `date` is no as-of date.
    """
    day = read_day(date)
    with temporary_home() as settings:
        if isinstance(declared, Pipeline):
            build_features(settings, land_rows(settings, declared, rows, day), [day])
        else:
            build_view(settings, land_rows(settings, declared, rows, day), [day])
        columns = [*declared.key, AS_OF, *declared.feature_names]
        found = open_dataset(open_table(settings, declared.feature_table)).to_table(columns)
        return Frame(_sort_rows(found, declared.key), date=day)


def labels(pipeline: Pipeline, rows: Mapping[str, Any], *, date: Date) -> Frame:
    """The labels of an as-of date, as a training set has them: key, `as_of`, the label and its weight, if it has one.

    Args:
        rows: As of `features`; rows up to the date give the entities, and those in the horizon after it the label.

    Raises:
        InputError: As of `features`; or a label is not of its kind, or an entity has several; or the model is not
            trained here.
    """
    day = read_day(date)
    dates = {"train": (day,), "validation": (), "test": ()}
    with temporary_home() as settings:
        given = land_rows(settings, pipeline, rows, day)
        given = replace(given, training=replace(given.training, split=None))  # all entities are in one split
        schema, files = write_rows_of_dates(settings, given, dates, pins=Pins(settings), details={})
        replace_table(settings, given.training_table, schema, files)
        columns = [*given.key, AS_OF, *given.trained_label.columns]
        found = open_dataset(open_table(settings, given.training_table)).to_table(columns)
        require_one_row_each(found, given)
        require_labels(found, given)
        return Frame(_sort_rows(found, given.key), date=day)


def gate(
    declared: Pipeline | Realtime,
    scores: Any,
    labels: Any,
    *,
    baseline: Any = None,
    weights: Any = None,
    requests: Any = None,
) -> GateVerdict:
    """The gate's verdict on scores: floors, baselines and calibration.

    The comparison with a champion, the latency and the size need a model, and are left out.

    Args:
        scores: [n], or [n, levels], or [n, classes] in their declared order, else ascending; a frame with one column is
            that column.
        labels: [n], of classes their names.
        baseline: The values [n] of the feature that the gate declares as its baseline, by name if it declares several;
            for classes their shares, for quantiles their values; None: no baseline is compared.
        weights: [n]; None: all rows count the same.
        requests: For a ranking, the number of rows of each request, whose rows are contiguous.

    Raises:
        InputError: The model is not trained here, a baseline of several is missing, or scores and classes do not fit.
    """
    score, weight = _numbers(scores), None if weights is None else _numbers(weights)
    label, classes = _label_of(declared, labels)
    if classes and score.shape[1:] != (len(classes),):
        raise InputError(
            f"The scores are of the shape {score.shape}, and the labels have the classes {', '.join(classes)}.",
            remedy="Give a probability for each class, and labels of each, or declare Classes(labels=(...)).",
        )
    sizes = None if requests is None else np.asarray(requests, np.int64)
    names = tuple(each.feature for each in declared.trained_gate.baselines)
    matrix = np.empty((len(label), len(names)), np.float32)
    constants: dict[str, Any] = {}
    if baseline is not None and names:
        values = baseline if isinstance(baseline, Mapping) else dict.fromkeys(names[:1], baseline)
        for place, name in enumerate(names):
            if name not in values:
                raise InputError(f"The baseline {name!r} is missing.", remedy="Give the values of each, by its name.")
            matrix[:, place] = _numbers(values[name])
    elif baseline is not None:
        name = "class shares" if declared.task == "multiclass" else "empirical quantiles"
        constants = {name: _numbers(baseline)}
    encoding = MatrixEncoding(tuple(FeatureEncoding(name, "number") for name in names))
    dates = (datetime.date.min,) * len(label)
    examples = SplitExamples(matrix, label, dates, encoding, weight, classes, constants, sizes)
    found = [] if baseline is None else score_baselines(declared, examples)
    metrics = judge_of(declared, sizes).measure(label, score, weight)
    checks = tuple(check_scores(declared, examples, score, metrics, found))
    failed = tuple(check.reason for check in checks if not check.passed)
    return GateVerdict(
        pipeline=declared.name,
        model_version=0,
        passed=not failed,
        reasons=failed or tuple(check.reason for check in checks),
        metrics=metrics,
        baseline=found[0].metrics if found else {},
        champion={},
        champion_before=None,
        champion_after=None,
        checks=checks,
        baseline_name=found[0].name if found else "",
    )


def answers(pipeline: Pipeline, features: Any, model: Any = None, *, date: Date | None = None) -> list[dict[str, Any]]:
    """The answers that the server would give for the keys of rows of features, in their order, as JSON values.

    The rows are scored, published to a store and read from it.

    Args:
        features: Key columns and features, as `features` of this module returns them.
        model: A fitted estimator, or a function of the features as of `FunctionModel`; None: the declared function or
            SQL expression.
        date: The as-of date; None: yesterday (UTC).

    Raises:
        InputError: The rows lack a column, a key is there twice, or the pipeline is not published.
        CheckError: The model returned values that the outputs do not take.
    """
    day = read_day(date) if date is not None else yesterday()
    rows = cast_key(read_frame(features, what="The frame of features"), pipeline)
    kernel, spec = open_given_model(pipeline, model)
    stamp = Stamp(pipeline.name, 0, datetime.datetime.now(datetime.timezone.utc), "")
    found = predict_rows(pipeline, kernel, spec, rows, stamp=stamp, key=pipeline.key)
    keys = found.select(list(pipeline.key)).to_pylist()
    with temporary_home() as settings:
        published = replace(pipeline, publish=replace(pipeline.publishing, backend="lmdb"))
        append_rows(settings, pipeline.prediction_table, add_date(found, day), partition_by=(AS_OF,))
        publish(settings, published, night=day)
        with open_store(settings, pipeline.name).snapshot() as snapshot:
            served = VersionAnswers(snapshot)
            served.refresh(time.time())
            return [orjson.loads(served.one(encode_key(snapshot.manifest.key, key)) or b"") for key in keys]


def yesterday() -> datetime.date:
    """The newest day that has ended, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=1)


def cast_key(rows: pa.Table, declared: Pipeline | FeatureView) -> pa.Table:
    """Rows with the key columns in their declared types; InputError if one is missing, or of another type."""
    for name, kind in key_types(declared.key, declared.all_sources).items():
        if name not in rows.column_names:
            raise InputError(
                f"The rows have no key column {name!r}.", remedy=f"They have {', '.join(rows.column_names) or 'none'}."
            )
        place = rows.schema.get_field_index(name)
        try:
            rows = rows.set_column(place, name, rows.column(name).cast(TYPES[kind]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"The key column {name!r} is given as {rows.column(name).type}, and declared as {kind}: {error}.",
                remedy="Give its values in the declared type.",
            ) from None
    return rows


def add_date(rows: pa.Table, day: datetime.date) -> pa.Table:
    """Rows with the column `as_of`."""
    kept = rows.drop_columns([AS_OF]) if AS_OF in rows.column_names else rows
    return kept.append_column(AS_OF, pa.array([day] * rows.num_rows, pa.date32()))


def _sort_rows(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    return rows.sort_by([(name, "ascending") for name in key])


def _numbers(values: Any) -> np.ndarray:
    """float64 [n] or [n, values] of an array, a list, a series, or a frame, whose only column is [n]."""
    found = np.asarray(values, np.float64)
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _label_of(declared: Pipeline | Realtime, labels: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels float64 [n], of classes their positions, and the classes."""
    if declared.task != "multiclass":
        return _numbers(labels), ()
    names = [str(each) for each in np.asarray(labels).reshape(-1).tolist()]
    known = declared.output_specs[0].classes
    strange = sorted({*names} - {*known}) if known else []
    if strange:
        raise InputError(
            f"The labels have the class {strange[0]!r}, which {declared.inline_name} does not declare.",
            remedy=f"It declares {', '.join(known)}.",
        )
    classes = known or class_order([*{*names}])
    return label_numbers(pa.array(names, pa.string()), classes), classes
