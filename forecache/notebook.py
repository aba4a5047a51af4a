"""Tables, models and answers of a project, for Python and notebooks: `forecache.predictions("churn")` and others.

Each function takes the settings of the environment, unless `settings` gives others. Nothing is written, but that an
applied model that has not scored yet gets its number, or its verdict, as in a nightly run.
"""

import datetime
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forecache.base.display import facts_html, value_text
from forecache.base.errors import InputError, NotFoundError
from forecache.base.plugins import load_hook
from forecache.base.settings import Settings, load_settings
from forecache.base.table_names import unknown_name_error
from forecache.declare import AS_OF, FeatureView, Pipeline, Realtime
from forecache.declare.loading import load_pipeline, load_served, load_trainable, load_trained, read_project
from forecache.declare.served import PluginTable
from forecache.lake.frame import Frame, add_columns, read_frame

if TYPE_CHECKING:
    from forecache.models.registry.model_versions import ModelVersion
    from forecache.serve.reader.wire import Key

Date = datetime.date | str
"""An as-of date, or its text in ISO 8601."""


def predictions(name: str, *, date: Date | None = None, settings: Settings | None = None) -> Frame:
    """The rows of the prediction table of a pipeline or recommender on an as-of date, read at one version.

    Args:
        date: None: the newest as-of date of the table.

    Raises:
        NotFoundError: Nothing has that name, or there are no predictions, or none of that date.
        InputError: It is no pipeline or recommender, or the date is not one.
    """
    current = settings or load_settings()
    declared = load_served(current, name)
    if isinstance(declared, FeatureView):
        raise InputError(f"{name!r} is a feature view.", remedy=f"`forecache.features({name!r})` gives its rows.")
    run = declared.maker.name if isinstance(declared, PluginTable) else name
    return _read_date(current, declared.served_table, date, what=f"predictions of {name!r}", run=run)


def features(name: str, *, date: Date | None = None, settings: Settings | None = None) -> Frame:
    """The features of a view or of a pipeline on an as-of date, read at one version; see `predictions`."""
    current = settings or load_settings()
    project = read_project(current)
    declared: dict[str, FeatureView | Pipeline] = {**project.views}
    builders: list[Pipeline | Realtime] = [*project.pipelines.values(), *project.realtime.values()]
    built_by = {view.name: each.name for each in builders for view in each.views}
    declared |= {view.name: view for each in builders for view in each.views}
    declared |= project.pipelines
    if name not in declared:
        if name not in project.publishable and not project.broken:
            raise unknown_name_error(name, "feature view or pipeline", declared, where=current.project)
        other = load_served(current, name)
        raise InputError(
            f"{other.name!r} is a recommender: it has no features.",
            remedy=f"`forecache.predictions({name!r})` gives its lists.",
        )
    found, run = declared[name], name if name in project.nightly else built_by[name]
    columns = (*found.key, AS_OF, *found.feature_names)
    return _read_date(current, found.feature_table, date, columns=columns, what=f"features of {name!r}", run=run)


def training_set(name: str, *, version: int | None = None, settings: Settings | None = None) -> Frame:
    """The training set of a pipeline or real-time model: keys, `as_of`, features, label and `split`.

    Args:
        version: A Delta version, such as that of `forecache.model(name).training_table`; None: the newest.

    Raises:
        NotFoundError: Nothing has that name, or there is no training set, or not that version.
        InputError: Its model is not trained here.
    """
    from forecache.kit.delta.damage import as_damaged_error
    from forecache.kit.delta.dataset import open_dataset
    from forecache.kit.delta.errors import translate_errors
    from forecache.kit.delta.log import open_if_exists
    from forecache.kit.delta.tables import open_table

    current = settings or load_settings()
    declared = load_trained(current, name)
    if open_if_exists(current, declared.training_table) is None:
        raise NotFoundError(
            f"{declared.display_name} has no training set yet.", remedy=f"`forecache train {name}` builds it."
        )
    delta = open_table(current, declared.training_table, version=version)
    with translate_errors(as_damaged_error):
        return Frame(open_dataset(delta).to_table(), table=declared.training_table, version=delta.version())


def sql(statement: str, *, settings: Settings | None = None) -> Frame:
    """The rows of one SELECT in DuckDB's dialect over the tables of the lake, each by its name at its newest version.

    Raises:
        InputError: The statement is wrong, does more than read, or names something that is not a table of the lake.
    """
    from forecache.lake.query import query

    return Frame(query(settings or load_settings(), statement))


def score(name: str, frame: Any, *, settings: Settings | None = None) -> Any:
    """Rows with the outputs that the champion of a pipeline, or its applied model, gives them.

    The values are those of a nightly run, to the bit.

    Args:
        frame: Rows with the features of the pipeline, and any other columns: of pandas, polars or Arrow, a `Frame` or a
            list of dicts.

    Returns:
        The same rows, of the same kind, with the columns of the outputs and segments.

    Raises:
        NotFoundError: There is no pipeline of that name, or it has no champion yet.
        InputError: It is a real-time model, or the rows lack a feature.
    """
    from forecache.lake.provenance import Stamp
    from forecache.models.inference.kernel import load_kernel
    from forecache.models.registry.applied.pipeline_models import scoring_model
    from forecache.models.registry.applied.scoring_plan import plan_model
    from forecache.models.tracking.artifacts import scratch_folder
    from forecache.scoring.frame_scores import predict_rows

    current = settings or load_settings()
    pipeline = load_pipeline(current, name)
    rows = read_frame(frame, what="The frame to score")
    version = scoring_model(current, pipeline)
    plan = plan_model(current, pipeline, version)
    kernel = load_kernel(plan.spec, lambda: plan.payload, scratch_folder)
    stamp = Stamp(version.name, version.version, datetime.datetime.now(datetime.timezone.utc), "")
    found = predict_rows(pipeline, kernel, plan.spec, rows, stamp=stamp)
    return add_columns(frame, {column: found.column(column) for column in pipeline.output_columns})


def model(name: str, *, settings: Settings | None = None) -> "ModelVersion":
    """The model version that scores or answers now: the champion, or the applied model.

    Raises:
        NotFoundError: There is no pipeline or real-time model of that name, or it has no champion yet.
        InputError: It is a recommender or a feature view, which have no registered model.
    """
    from forecache.models.registry.applied.pipeline_models import scoring_model

    current = settings or load_settings()
    return scoring_model(current, load_trainable(current, name))


class Explanation(dict[str, Any]):
    """The chain behind an answer: version, rows, events and model, by the names that `forecache explain --json` has."""

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {line}" for name, link in self.items() for line in _lines(link))

    def _repr_html_(self) -> str:
        return facts_html("Explanation", {name: list(_lines(link)) for name, link in self.items()})


def explain(name: str, key: "Key", *, version: int | None = None, settings: Settings | None = None) -> Explanation:
    """Follow the answer for a key of a pipeline, recommender or view, or a logged answer of a real-time model, back.

    Args:
        key: The key, a tuple if it has several columns; of a real-time model the id of a request.
        version: A version that the store keeps; None: the served one.

    Raises:
        NotFoundError: Nothing has that name, nothing is published, or the key or request is not there.
    """
    from forecache.serve.reader.wire import key_text

    found = load_hook("explain", "find_explanation")(settings or load_settings(), name, key_text(key), version=version)
    return Explanation(found)


def _lines(link: Any) -> Iterator[str]:
    """A link of an explanation in a few lines: its plain values in one, each row or other part of it in one more."""
    for each in link if isinstance(link, list) else [link]:
        if not isinstance(each, Mapping):
            yield value_text(each)
            continue
        known = {name: value for name, value in each.items() if value not in (None, "", {}, [])}
        yield _joined({name: value for name, value in known.items() if not isinstance(value, Mapping)})
        for name, part in known.items():
            if isinstance(part, Mapping):
                yield f"{name}: {_joined(part)}"


def _joined(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value_text(value)}" for name, value in values.items())


def _read_date(
    settings: Settings, table: str, date: Date | None, *, what: str, run: str, columns: tuple[str, ...] = ()
) -> Frame:
    """The rows of one as-of date of a table, of which only that date's files are read, at the newest version.

    `what` are the rows in a message, and `run` is the name whose run makes them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from forecache.kit.delta.damage import as_damaged_error
    from forecache.kit.delta.dataset import open_dataset
    from forecache.kit.delta.errors import translate_errors
    from forecache.kit.delta.log import active_files, group_by_partition, open_if_exists

    delta = open_if_exists(settings, table)
    there = [] if delta is None else sorted(group_by_partition(active_files(delta), AS_OF))
    day = max(there, default="") if date is None else read_day(date).isoformat()
    if delta is None or day not in there:
        known = f"There are {len(there)} dates, from {there[0]} to {there[-1]}. " if there else ""
        missing = f"{what} for {day}" if there else f"{what} yet"
        raise NotFoundError(
            f"There are no {missing}.",
            remedy=f"{known}`forecache run {run}{f' --date {day}' if day else ''}` makes them.",
        )
    dataset = open_dataset(delta, partitions=[(AS_OF, "=", day)])
    of_day = datetime.date.fromisoformat(day)
    chosen = [name for name in columns or dataset.schema.names if name in dataset.schema.names]
    with translate_errors(as_damaged_error):
        rows = dataset.to_table(chosen, filter=pc.field(AS_OF) == pa.scalar(of_day))
    return Frame(rows, table=table, version=delta.version(), date=of_day)


def read_day(date: Date) -> datetime.date:
    if isinstance(date, datetime.datetime):
        return date.date()
    try:
        return date if isinstance(date, datetime.date) else datetime.date.fromisoformat(date)
    except (TypeError, ValueError):
        raise InputError(f"{date!r} is no date.", remedy='Give a date, or text such as "2026-01-31".') from None
