"""Inputs of a night's predictions, and the immutable feature files that they are scored from."""

import hashlib
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.code_version import code_version
from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.tables import open_table
from forecache.lake.features import feature_versions
from forecache.lake.ledger import StageRecord
from forecache.models.inference.kernel_spec import KERNEL_VERSION

if TYPE_CHECKING:
    from deltalake import DeltaTable

STAGE = "score"


@dataclass(frozen=True)
class FeatureFile:
    """A Parquet file of a feature partition at a fixed Delta version; its path is relative to the table.

    Attributes:
        rows: Number of its rows to score, from `first` on.
        size_bytes: Of the whole file.
        shard: Name of its scored rows: the file's, with `@first` if its beginning was scored before.
    """

    path: str
    rows: int
    size_bytes: int
    first: int = 0

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def shard(self) -> str:
        return f"{self.name}@{self.first}" if self.first else self.name


@dataclass(frozen=True)
class ScoringNight:
    """A night to score.

    Attributes:
        inputs: Text that identifies everything its predictions depend on.
        tag: Name of its shards in the staging area: inputs, code version and the state of the ledger.
    """

    night: date
    feature_version: int
    files: tuple[FeatureFile, ...]
    inputs: str
    tag: str

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
    """Each night's inputs and feature files, ascending; NotFoundError or InputError if a night has no features.

    Args:
        compared_with: A model whose predictions are compared with these, as name@version.
    """
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
                f"Pipeline {pipeline.name!r} has no entity on the night {night}: its features are empty.",
                remedy="Ingest the landing files of that day or choose a later night.",
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
    """As `partition_files`, for an open table."""
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
            f"Pipeline {pipeline.name!r} has no predictions for the night {night}.",
            remedy=f"`forecache run {pipeline.name} --night {night}` scores it.",
        )
