"""A scoring run and its nights: the inputs of their predictions, and the immutable feature files that are scored."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.code_version import code_version
from forecache.base.errors import InputError, NotFoundError
from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.partitions import TableSnapshot
from forecache.kit.delta.tables import open_table
from forecache.kit.process.usage import CpuMeter
from forecache.lake.engine import Engine, EngineName
from forecache.lake.features import feature_versions
from forecache.lake.ledger import StageRecord
from forecache.lake.provenance import Stamp
from forecache.lake.stage_runner import Stage
from forecache.models.inference.kernel_spec import KERNEL_VERSION, ScoringPlan
from forecache.models.registry.model_versions import ModelVersion

if TYPE_CHECKING:
    from deltalake import DeltaTable


STAGE = "score"


@dataclass(frozen=True)
class FeatureFile:
    """A Parquet file of a feature partition at a fixed Delta version; its path is relative to the table.

    Attributes:
        shard: Name of its scored rows: the file's, with `@first` if its beginning was scored before.
    """

    path: str
    rows: int  # number of its rows to score, from `first` on
    size_bytes: int  # of the whole file
    first: int = 0

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def shard(self) -> str:
        return f"{self.name}@{self.first}" if self.first else self.name


@dataclass(frozen=True)
class ScoringNight:
    night: date
    feature_version: int
    files: tuple[FeatureFile, ...]
    inputs: str  # text that identifies everything its predictions depend on
    tag: str  # name of its shards in the staging area: inputs, code version and the state of the ledger

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def night_inputs(pipeline: Pipeline, model: Any, version: int) -> str:
    """Model version, feature version, declaration and kernel, which decide every value of the partition."""
    # Numbers of the ledger begin at 1, as those of a model that was trained here before; and those of a registered
    # model that was deleted and registered again begin at 1, too.
    made = f" {model.created_at.isoformat()}" if model.uri.startswith("models:/") else ""
    of = "" if pipeline.is_trained else f" of={hashlib.sha256((model.uri + made).encode()).hexdigest()[:12]}"
    return (
        f"model={model.name}@{model.version}{of} {pipeline.feature_table}@{version} "
        f"declared={pipeline.fingerprints.scoring} kernel={KERNEL_VERSION}"
    )


def describe_nights(
    settings: Settings,
    pipeline: Pipeline,
    model: Any,
    nights: Sequence[date],
    before: Mapping[date | None, StageRecord],
    *,
    compared_with: str = "",
) -> list[ScoringNight]:
    """Each night's inputs, to which the model `compared_with` belongs, and feature files, ascending; NotFoundError or
    InputError if a night has no features."""
    versions = feature_versions(settings, pipeline, sorted(nights))
    by_version: dict[int, list[date]] = defaultdict(list)
    for night, version in versions.items():
        by_version[version].append(night)
    files: dict[date, tuple[FeatureFile, ...]] = {}
    for version, group in by_version.items():
        files |= partition_files(settings, pipeline.feature_table, version, group)
    described = []
    for night, version in versions.items():
        if not sum(file.rows for file in files[night]):
            raise InputError(
                f"Pipeline {pipeline.name!r} has no entity on {night}: its features are empty.",
                remedy="Ingest the landing files of that day or choose a later date.",
            )
        inputs = night_inputs(pipeline, model, version)
        inputs += f" compared_with={compared_with}" if compared_with else ""
        last = before.get(night)
        state = f"{inputs} {code_version(settings)} {last.delta_version if last else -1}"
        tag = hashlib.sha256(state.encode()).hexdigest()[:12]
        described.append(ScoringNight(night, version, files[night], inputs, tag))
    return described


def partition_files(
    settings: Settings, table: str, version: int | None, nights: Sequence[date]
) -> dict[date, tuple[FeatureFile, ...]]:
    """The files with rows of each night's partition, largest first, from the log of a Delta table at a version."""
    return files_of(open_table(settings, table, version=version), nights)


def files_of(delta: "DeltaTable", nights: Sequence[date]) -> dict[date, tuple[FeatureFile, ...]]:
    found = group_by_partition(active_files(delta), AS_OF)
    files = {
        night: [FeatureFile(f.path, f.rows, f.size_bytes) for f in found.get(night.isoformat(), ()) if f.rows > 0]
        for night in nights
    }
    return {night: tuple(sorted(some, key=lambda f: (-f.rows, f.path))) for night, some in files.items()}


def require_scored(pipeline: Pipeline, night: date, there: Container[date | None]) -> None:
    """Refuse a night that is not among those with predictions; NotFoundError."""
    if night not in there:
        raise NotFoundError(
            f"Pipeline {pipeline.name!r} has no predictions for the as-of date {night}.",
            remedy=f"`forecache run {pipeline.name} --date {night}` scores it.",
        )


Details = Callable[[date], Mapping[str, Any]]
BATCH_ROWS = 20_000


@dataclass(frozen=True, kw_only=True)
class ScoringRun:
    """A run that scores nights with one model into one table."""

    settings: Settings
    pipeline: Pipeline
    model: ModelVersion
    table: str  # the prediction table, or the challenger's
    stage: str  # the ledger's stage in which the nights are recorded
    run_id: str
    progress: Progress
    compared_with: str = ""  # the model that this one is compared with, as name@version: another one makes nights stale
    asked_engine: EngineName | None = None  # None: the settings and the number of rows decide
    meter: CpuMeter = field(default_factory=CpuMeter)
    details: Details = lambda night: {}  # further details of a night's record, made when the night is committed

    @property
    def ledger(self) -> Stage:
        return Stage(self.settings, self.stage, self.pipeline.name, self.run_id, meter=self.meter)


@dataclass(frozen=True, kw_only=True)
class ScoringWork(ScoringRun):
    """A run that has nights to score, with its model's plan and the state of the table at the start of the run."""

    engine: Engine
    plan: ScoringPlan
    stamp: Stamp
    seen: TableSnapshot
    batch_rows: int = BATCH_ROWS

    @property
    def cores(self) -> int:
        # A model in plain Python holds the interpreter, and may not expect two threads.
        one = self.engine.name == "arrow" and self.plan.spec.runtime == "pyfunc"
        return 1 if one else self.engine.num_cores
