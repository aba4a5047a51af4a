"""The declaration a user writes: what is particular to one pipeline, and nothing about how it runs.

A project is a package with a `pipelines` sub-package; every module-level `Pipeline` in it is found by
`load_pipelines`. Declarations hold plain values and functions; heavy libraries are imported inside those functions.
"""

import hashlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from forecache.errors import ForecacheError, NotFoundError, SettingsError
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from torch import nn

    from forecache.training.worker.own import FitRun

ColumnType = Literal["string", "int", "bigint", "double", "date", "timestamp", "boolean"]
Effect = Literal["none", "small", "large"]
AS_OF = "as_of"
PROVENANCE_COLUMNS = ("model_name", "model_version", "feature_version", "scored_at", "run_id")
SOURCE_COLUMNS = ("event_day", "source_file", "source_line", "ingested_at")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"The {kind} name {name!r} is not usable as a table name.",
            remedy="Use lower-case letters, digits and underscores, starting with a letter, at most 63.",
        )


def _check_unique(kind: str, owner: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise SettingsError(f"{owner} declares the {kind} {twice[0]!r} twice.", remedy="Rename or remove one.")


@dataclass(frozen=True)
class Expectation:
    """One Great Expectations expectation by its snake-case type, such as `expect_column_values_to_not_be_null`.

    A critical one that fails blocks what is downstream; a warning is shown and lets the run go on.
    """

    type: str
    arguments: Mapping[str, Any]
    severity: Literal["critical", "warning"] = "critical"


def expect(type_: str, /, *, severity: Literal["critical", "warning"] = "critical", **arguments: Any) -> Expectation:
    """Shorthand: `expect("expect_column_values_to_be_between", column="amount", min_value=0)`."""
    return Expectation(type_, arguments, severity)


@dataclass(frozen=True)
class Column:
    """A column of a source. Rows that break the type, `required`, `minimum` or `maximum` go to quarantine."""

    name: str
    type: ColumnType
    required: bool = True
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""


@dataclass(frozen=True)
class Source:
    """A kind of landing file: one or more files a day, as CSV (with header), JSON lines or Parquet.

    Files live in `LANDING/<name>/`; the day of a file is the `day` group of `file_pattern` in its file name and
    rows whose `event_time` lies on another day (UTC) are quarantined.

    Attributes:
        event_time: Column (date or timestamp) that says when the event happened.
        unique: Columns that identify an event, where the source has such (a transaction id); repeats are quarantined.
        start: First day of the source.
        end: Last day, for a source that has ended (a historical data set); None while it goes on.
    """

    name: str
    columns: tuple[Column, ...]
    event_time: str
    start: date
    end: date | None = None
    unique: tuple[str, ...] = ()
    file_pattern: str = r"(?P<day>\d{4}-\d{2}-\d{2})[^/]*\.(csv|jsonl|parquet)"
    expectations: tuple[Expectation, ...] = ()
    description: str = ""
    owner: str = "data-platform@example.com"

    def __post_init__(self) -> None:
        _check_name("source", self.name)
        names = [column.name for column in self.columns]
        _check_unique("column", f"Source {self.name!r}", [*names, *SOURCE_COLUMNS])
        for wanted in (self.event_time, *self.unique):
            if wanted not in names:
                raise SettingsError(
                    f"Source {self.name!r} refers to the column {wanted!r}, which it does not declare.",
                    remedy=f"Its columns are {', '.join(names)}.",
                )
        if "day" not in re.compile(self.file_pattern).groupindex:
            raise SettingsError(
                f"Source {self.name!r} has the file pattern {self.file_pattern!r} without a `day` group.",
                remedy=r"Write it like (?P<day>\d{4}-\d{2}-\d{2})\.csv.",
            )

    @property
    def raw_table(self) -> str:
        """Delta table of the good rows: declared columns plus SOURCE_COLUMNS, partitioned by `event_day` (date)."""
        return f"raw_{self.name}"

    @property
    def quarantine_table(self) -> str:
        """Delta table of the bad rows: event_day, source_file, source_line, reason, content, ingested_at."""
        return f"quarantine_{self.name}"


@dataclass(frozen=True)
class Feature:
    """A float32 feature. `log` applies log1p before scaling, inside the model. Null is unknown; the model imputes."""

    name: str
    description: str = ""
    log: bool = False


@dataclass(frozen=True)
class Features:
    """How features come from events.

    `compute` gets `{source name: events}`; each frame has the source's columns, `event_day` and `as_of`, and holds,
    for every as-of date asked for, only events up to that date: it cannot see the future. It returns one row per
    (key columns, `as_of`) with every declared feature. It must group by `as_of` so that many nights run as one job.
    """

    compute: Callable[[Mapping[str, "DataFrame"]], "DataFrame"]
    columns: tuple[Feature, ...]
    expectations: tuple[Expectation, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.columns)


@dataclass(frozen=True)
class Label:
    """What happened in the `horizon_days` after the as-of date.

    `compute` gets the entities (key columns, `as_of`) and `{source name: events}`, each frame with `as_of` and only
    events in (as_of, as_of + horizon_days]. It returns key columns, `as_of` and `name` as double: 0.0 or 1.0 where
    kind is "binary".
    """

    name: str
    kind: Literal["binary", "regression"]
    horizon_days: int
    compute: Callable[["DataFrame", Mapping[str, "DataFrame"]], "DataFrame"]


@dataclass(frozen=True)
class TorchModel:
    """A torch network. Scaling, imputation and the output's link are added by the engine and exported with it.

    Attributes:
        build: `build(num_features)` returns a module from float32 [n, num_features] (scaled, no nulls) to [n, 1]:
            logits where the label is binary, the (transformed) target where it is a regression.
        target: "log1p" trains a regression on log1p of the label and exports expm1 of the output.
        loss: Loss over (output [n, 1], target [n, 1]) as a scalar mean; None: binary cross-entropy or Huber.
        fit: A training function of your own in place of the engine's loop: every worker calls `fit(run)` with a
            `forecache.training.worker.own.FitRun`, and it returns the trained network, whose weights have the names of
            `build`'s. Of `Training` then only the dates, `batch_size`, `seed` and `deterministic` count by themselves.
    """

    build: Callable[[int], "nn.Module"]
    target: Literal["identity", "log1p"] = "identity"
    loss: Callable[..., Any] | None = None
    fit: "Callable[[FitRun], nn.Module] | None" = None


@dataclass(frozen=True)
class EstimatorModel:
    """A scikit-learn-style estimator: LightGBM, XGBoost or scikit-learn. It is fitted in one process, in memory.

    It gets the features as the table has them, float32 [n, num_features] with NaN for null: LightGBM and XGBoost take
    that as it is, a scikit-learn estimator that does not needs an imputer before it in its own pipeline. Of `Training`,
    the dates and the seed count: the seed becomes every `random_state` that the estimator leaves open.

    Attributes:
        build: `build()` returns the estimator, not fitted; with `predict_proba` where the label is binary.
        patience: Boosting rounds without a better validation loss after which fitting ends and the best round is kept
            (LightGBM, XGBoost); None: all rounds are fitted and kept.
    """

    build: Callable[[], Any]
    patience: int | None = 50


@dataclass(frozen=True)
class Training:
    """What to train on and how.

    For a training night T and horizon H the test as-of date is T-H, validation T-2H, and the training dates are
    T-3H and `num_as_of - 1` further ones, `every_days` apart, before it: no label reaches into a later split.

    Attributes:
        batch_size: Rows of an optimizer step over all workers.
        accumulation: Parts in which each worker computes the gradient of a step, one after the other: the gradient of
            the whole batch, in the memory of a part. Layers that look across rows (BatchNorm) see a part.
        max_gradient_norm: A gradient whose global norm is larger is scaled down to it; None: never.
        schedule: How the learning rate goes on from `learning_rate` after the warm-up: it stays, or falls to zero
            along half a cosine or a line until the last step of `epochs`.
        warmup_share: Share of all steps over which the learning rate first rises from zero, in a line.
        parallel: "ddp" keeps the network whole on each device, "fsdp" a shard of it on each; "auto" takes shards where
            weights, gradients, AdamW's moments and the best weights need more than 70% of a device's memory.
        precision: Type that the network computes in while it trains: "auto" is "bfloat16" on a GPU that has it, else
            "float32"; with "float16" the loss is scaled. Weights stay float32, as do validation and the exported model.
        compile: Compile the network with `torch.compile`; it needs a C++ compiler, and pays for large networks.
        deterministic: Use algorithms that repeat to the bit only; without, a GPU may train faster.
        patience: Epochs without a better validation loss after which training ends; the best weights are kept.
    """

    num_as_of: int = 4
    every_days: int = 30
    epochs: int = 20
    batch_size: int = 1024
    accumulation: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    max_gradient_norm: float | None = None
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_share: float = 0.0
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    deterministic: bool = True
    patience: int = 4
    seed: int = 7

    def __post_init__(self) -> None:
        for name in ("num_as_of", "every_days", "epochs", "batch_size", "accumulation"):
            _check_training(name, getattr(self, name), getattr(self, name) >= 1, "It is a number of at least 1.")
        norm = self.max_gradient_norm
        _check_training("max_gradient_norm", norm, norm is None or norm > 0, "It is a positive number, or None.")
        share = self.warmup_share
        _check_training("warmup_share", share, 0 <= share < 1, "It is a share of all steps: at least 0, less than 1.")
        _check_choice(self, "schedule", "constant", "cosine", "linear")
        _check_choice(self, "parallel", "auto", "ddp", "fsdp")
        _check_choice(self, "precision", "auto", "float32", "bfloat16", "float16")


def _check_training(name: str, value: object, fits: bool, remedy: str) -> None:
    if not fits:
        raise SettingsError(f"`Training` has {name}={value!r}, which cannot be.", remedy=remedy)


def _check_choice(training: Training, name: str, *choices: str) -> None:
    value = getattr(training, name)
    _check_training(name, value, value in choices, f"It is one of {', '.join(map(repr, choices))}.")


@dataclass(frozen=True)
class Output:
    """A column of the prediction table that the model computes, float64."""

    name: str
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""


@dataclass(frozen=True)
class Segment:
    """A string column cut from an output: labels[i] where bounds[i-1] <= value < bounds[i] (ends open)."""

    name: str
    of: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...]
    description: str = ""


@dataclass(frozen=True)
class Baseline:
    """A single feature used as the score, against which every model has to show its worth.

    Attributes:
        scale: For a regression, the prediction is `scale * feature`; for a binary label its sign gives the direction.
    """

    feature: str
    scale: float = 1.0
    description: str = ""


@dataclass(frozen=True)
class Gate:
    """When a candidate may become the champion, judged on the test split.

    Attributes:
        metric: "roc_auc" or "average_precision" (more is better), or "mae", "rmse" (less is better).
        floors: Worst value allowed for each named metric.
        baseline_margin: The metric must beat the baseline's by at least this much.
        max_regression: How much worse than the champion on the same rows the metric may be.
        slices: Features by whose values (or quarters) the champion is compared too.
        max_slice_regression: How much worse the metric may surely be in any slice.
        max_ece: Largest expected calibration error, in the label's unit; None: any.
        max_latency_ms: Longest median time of scoring one row.
        max_size_bytes: Largest exported model.
        max_prediction_psi: Largest population stability index of the scores against the champion's; None: any.
        approval: A model that passes waits until a person promotes it.
    """

    metric: str
    floors: Mapping[str, float]
    baseline: Baseline
    baseline_margin: float = 0.0
    max_regression: float = 0.002
    slices: tuple[str, ...] = ()
    max_slice_regression: float = 0.01
    max_ece: float | None = None
    max_latency_ms: float = 5.0
    max_size_bytes: int = 100_000_000
    max_prediction_psi: float | None = None
    approval: bool = False


@dataclass(frozen=True)
class Publish:
    """What goes to the precompute store and when a version may become current.

    Attributes:
        fields: Columns to serve, None: every output and segment.
        backend: "lmdb" or "redis".
        max_age_h: Age of the as-of date (since the midnight that ended it, UTC) beyond which an answer is stale.
        on_stale: "serve" without more, "flag" with `stale: true`, "refuse" with 503.
        keep: Versions kept beside the current and pinned ones.
        max_row_change: Largest relative change of the row count against the current version; None: any.
        max_null_share: Largest share of nulls in any served field.
        max_psi: Largest population stability index of an output against the current version; None: any.
    """

    fields: tuple[str, ...] | None = None
    backend: Literal["lmdb", "redis"] = "lmdb"
    max_age_h: float = 36.0
    on_stale: Literal["serve", "flag", "refuse"] = "flag"
    keep: int = 5
    max_row_change: float | None = 0.5
    max_null_share: float = 0.0
    max_psi: float | None = 0.5
    compact_share: float = 0.10
    max_segments: int = 16


@dataclass(frozen=True)
class Drift:
    """How far a night's scores may move, by the size of the effect: a small one warns, a large one is an error.

    The index's limits are the customary ones (Siddiqi 2006). Chance alone moves ten bins of `min_rows` rows by less
    than half of the small ones.

    Attributes:
        last: Nights before, scored by the same model, that a night is compared with.
        small_psi, large_psi: Population stability index above which an effect counts as small, as large.
        small_js, large_js: Jensen-Shannon distance above which it does, whatever the index says.
        min_rows: With fewer rows on either side the figures are shown and not judged.
        blocking: A night with a large effect is not published.
        report_rows: Most rows of the night, and of its reference, in the sampled report; 0: there is no report.
        keep_reports: Reports kept on disk, the newest.
    """

    last: int = 7
    small_psi: float = 0.1
    large_psi: float = 0.25
    small_js: float = 0.15
    large_js: float = 0.3
    min_rows: int = 500
    blocking: bool = False
    report_rows: int = 20_000
    keep_reports: int = 7

    def __post_init__(self) -> None:
        for small, large, name in (
            (self.small_psi, self.large_psi, "psi"),
            (self.small_js, self.large_js, "js"),
        ):
            if not 0 < small <= large:
                raise SettingsError(
                    f"The drift limits small_{name} {small:g} and large_{name} {large:g} are out of order.",
                    remedy="Give a small one above 0 and a large one that is not below it.",
                )
        for name, least in (("last", 0), ("min_rows", 1), ("report_rows", 0), ("keep_reports", 1)):
            if getattr(self, name) < least:
                raise SettingsError(
                    f"The drift setting {name} is {getattr(self, name)}.", remedy=f"Give {least} or more."
                )

    def effect(self, psi: float, js: float) -> Effect:
        """The larger of the two effects."""
        if psi > self.large_psi or js > self.large_js:
            return "large"
        return "small" if psi > self.small_psi or js > self.small_js else "none"


@dataclass(frozen=True)
class Retraining:
    """When to train between the scheduled trainings: an effect beyond its limit on each of the latest nights.

    See `forecache.monitoring` for what is measured. The new model has to pass the gate like any other. A limit of None
    is off.

    Attributes:
        max_feature_psi: Largest population stability index of a feature against the champion's training split.
        max_prediction_psi: Largest one of the output against the champion's scores on its test split.
        max_metric_drop: How much worse than on the test split the gate's metric may be once labels are known. It has to
            be surely worse, too: its bootstrap interval lies on that side.
        ignore: Features that move by their nature, such as an age.
        min_nights: The latest measured nights that all have to be beyond the limit.
        min_rows: A night with fewer rows does not count.
        cool_down_days: Days since the last training in which no other is asked for.
    """

    max_feature_psi: float | None = 0.25
    max_prediction_psi: float | None = 0.25
    max_metric_drop: float | None = 0.02
    ignore: tuple[str, ...] = ()
    min_nights: int = 3
    min_rows: int = 1000
    cool_down_days: float = 7.0

    def __post_init__(self) -> None:
        limits = ("max_feature_psi", "max_prediction_psi", "max_metric_drop")
        for name in limits:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingsError(f"The retraining limit {name} is {value}.", remedy="Give more than 0, or None.")
        if all(getattr(self, name) is None for name in limits):
            raise SettingsError("Retraining has no limit.", remedy=f"Set one of {', '.join(limits)}, or leave it out.")
        for name, least in (("min_nights", 1), ("min_rows", 1), ("cool_down_days", 0)):
            if getattr(self, name) < least:
                raise SettingsError(
                    f"The retraining setting {name} is {getattr(self, name)}.", remedy=f"Give {least} or more."
                )


@dataclass(frozen=True)
class Pipeline:
    """One model from landing files to served answers. `name` is part of table, job, store and route names.

    Attributes:
        shadow: The nightly scores a challenger beside the champion, where one is named.
    """

    name: str
    key: tuple[str, ...]
    sources: tuple[Source, ...]
    features: Features
    label: Label
    model: TorchModel | EstimatorModel
    output: Output
    gate: Gate
    training: Training = field(default_factory=Training)
    segments: tuple[Segment, ...] = ()
    publish: Publish = field(default_factory=Publish)
    drift: Drift = field(default_factory=Drift)
    shadow: bool = False
    retraining: Retraining | None = None
    expectations: tuple[Expectation, ...] = ()
    description: str = ""
    owner: str = "ml-platform@example.com"

    def __post_init__(self) -> None:
        owner = f"Pipeline {self.name!r}"
        _check_name("pipeline", self.name)
        if not self.key or not self.sources:
            raise SettingsError(f"{owner} has no key or no source.", remedy="Declare at least one of each.")
        for source in self.sources:
            missing = set(self.key) - {column.name for column in source.columns}
            if missing:
                raise SettingsError(
                    f"{owner} has the key column {min(missing)!r}, which source {source.name!r} does not declare.",
                    remedy=f"Its columns are {', '.join(column.name for column in source.columns)}.",
                )
        _check_unique("feature", owner, [*self.key, AS_OF, *self.features.names, self.label.name])
        _check_unique("column", owner, [*self.key, AS_OF, *self.output_columns, *PROVENANCE_COLUMNS])
        if self.gate.baseline.feature not in self.features.names:
            raise SettingsError(
                f"{owner} has the baseline feature {self.gate.baseline.feature!r}, which it does not compute.",
                remedy=f"Its features are {', '.join(self.features.names)}.",
            )
        for column in self.gate.slices:
            if column not in self.features.names:
                raise SettingsError(
                    f"{owner} slices its gate by {column!r}, which is not a feature.",
                    remedy=f"Its features are {', '.join(self.features.names)}.",
                )
        for column in self.retraining.ignore if self.retraining else ():
            if column not in self.features.names:
                raise SettingsError(
                    f"{owner} ignores {column!r} in its retraining, which is not a feature.",
                    remedy=f"Its features are {', '.join(self.features.names)}.",
                )
        for segment in self.segments:
            if segment.of != self.output.name or len(segment.labels) != len(segment.bounds) + 1:
                raise SettingsError(
                    f"{owner} has a wrong segment {segment.name!r}.",
                    remedy=f"It must be cut from {self.output.name!r} and have one label more than bounds.",
                )
        unknown = set(self.publish.fields or ()) - set(self.output_columns)
        if unknown:
            raise SettingsError(
                f"{owner} publishes the field {min(unknown)!r}, which its prediction table does not have.",
                remedy=f"It has {', '.join(self.output_columns)}.",
            )

    @property
    def output_columns(self) -> tuple[str, ...]:
        return (self.output.name, *(segment.name for segment in self.segments))

    @property
    def served_fields(self) -> tuple[str, ...]:
        return self.publish.fields or self.output_columns

    @property
    def network(self) -> TorchModel:
        """The model of a pipeline that trains a torch network; there is no other in a torchrun worker."""
        assert isinstance(self.model, TorchModel)
        return self.model

    @property
    def feature_table(self) -> str:
        """Delta table: key, as_of (date, partition), features (float32)."""
        return f"features_{self.name}"

    @property
    def training_table(self) -> str:
        """Delta table: key, as_of, split ("train", "validation", "test"), features (float32), label (double)."""
        return f"training_set_{self.name}"

    @property
    def prediction_table(self) -> str:
        """Delta table: key, as_of (date, partition), output_columns, PROVENANCE_COLUMNS."""
        return f"predictions_{self.name}"

    @property
    def challenger_table(self) -> str:
        """Delta table of the challenger's predictions, as the prediction table; nothing publishes from it."""
        return f"{self.prediction_table}_challenger"

    @property
    def start(self) -> date:
        return max(source.start for source in self.sources)

    @property
    def end(self) -> date | None:
        return min((source.end for source in self.sources if source.end), default=None)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the declaration: the source text of the modules that hold its functions, and its plain values.

        Stages compare it to decide whether what they wrote before is still what this declaration means.
        """
        functions: list[Callable[..., Any]] = [self.features.compute, self.label.compute, self.model.build]
        if isinstance(self.model, TorchModel) and self.model.fit is not None:
            functions.append(self.model.fit)
        modules = sorted({inspect.getmodule(function).__name__ for function in functions})  # type: ignore[union-attr]
        digest = hashlib.sha256(self.name.encode())
        for name in modules:
            digest.update(inspect.getsource(importlib.import_module(name)).encode())
        return digest.hexdigest()[:16]


def load_pipelines(settings: Settings) -> dict[str, Pipeline]:
    """Every pipeline of the project by name, in alphabetical order.

    Raises:
        SettingsError: The project package or a module in it cannot be imported, or a name is declared twice.
    """
    package_name = f"{settings.project}.pipelines"
    try:
        package = importlib.import_module(package_name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"The project package {package_name!r} cannot be imported: {error}.",
            remedy="Set FORECACHE_PROJECT to a package that holds `pipelines/`, or run from the project's folder.",
        ) from None
    pipelines: dict[str, Pipeline] = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        for pipeline in _pipelines_in(f"{package_name}.{module_info.name}"):
            if pipelines.get(pipeline.name, pipeline) is not pipeline:
                raise SettingsError(
                    f"Two pipelines are named {pipeline.name!r}, the second in {module_info.name}.py.",
                    remedy="Rename one: the name is part of tables, jobs, the store and the route.",
                )
            pipelines[pipeline.name] = pipeline
    return dict(sorted(pipelines.items()))


def _pipelines_in(module_name: str) -> list[Pipeline]:
    try:
        module = importlib.import_module(module_name)
    except ForecacheError:
        raise
    except Exception as error:
        raise SettingsError(
            f"The pipeline module {module_name} cannot be imported: {type(error).__name__}: {error}.",
            remedy="Mend the module; the other pipelines wait for it.",
        ) from error
    return [value for value in vars(module).values() if isinstance(value, Pipeline)]


def load_pipeline(settings: Settings, name: str) -> Pipeline:
    """One pipeline by name.

    Raises:
        NotFoundError: No pipeline has that name; the message lists those there are.
    """
    pipelines = load_pipelines(settings)
    if name not in pipelines:
        known = ", ".join(pipelines) or "none"
        raise NotFoundError(f"There is no pipeline {name!r}.", remedy=f"Pipelines in {settings.project}: {known}.")
    return pipelines[name]
