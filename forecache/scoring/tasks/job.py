"""A piece of work for an engine: which feature files to score, and into which folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from forecache.errors import InputError
from forecache.pipeline import Pipeline
from forecache.scoring.night import FeatureFile

TELL_EVERY_S = 1.0
# A part takes a few tenths of a second. What a kill loses is the part under way on each core.
PART_ROWS = 100_000


@dataclass(frozen=True)
class Job:
    """The feature files of some nights, to be scored into a folder below the prediction table.

    Attributes:
        files: Feature files to score, by night.
        versions: Feature table version of each night.
        sharded: One output folder for each feature file, with the predictions of its rows in their order and in parts,
            so that a later run can take up what is done.
    """

    files: Mapping[date, Sequence[FeatureFile]]
    versions: Mapping[date, int]
    folder: str
    sharded: bool

    @property
    def rows(self) -> int:
        return sum(file.rows for files in self.files.values() for file in files)

    def part_rows(self, cores: int) -> int:
        """Rows after which an output file of a shard ends: a kill loses no more than a twentieth of a large job."""
        return max(PART_ROWS, self.rows // (20 * cores))


def model_features(pipeline: Pipeline, inputs: Sequence[str]) -> list[str]:
    """The pipeline's features in the order in which the model takes them.

    Raises:
        InputError: The model takes a column that the pipeline does not compute.
    """
    missing = [name for name in inputs if name not in pipeline.features.names]
    if missing:
        raise InputError(
            f"The model of pipeline {pipeline.name!r} takes the column {missing[0]!r}, which is not a feature.",
            remedy="Train a model on the features as they are declared now.",
        )
    return list(inputs or pipeline.features.names)


def sentence(shards: tuple[int, int], rows: tuple[int, int], seconds: float) -> tuple[str, float | None]:
    """Shards done, rows per second and time left, as a progress message and a share.

    Args:
        shards: Done, and all; at most all rows of these are done.
        rows: Done, also those of unfinished shards, and all.
    """
    about = f"scoring {rows[1]:,} rows"
    if not rows[0] or not shards[1]:
        return about, None
    share = min(1.0, rows[0] / rows[1])
    left = seconds * (1 - share) / share
    time_left = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
    rate = rows[1] * share / seconds
    return f"{about}: {shards[0]} of {shards[1]} shards, {rate:,.0f} rows/s, {time_left} left", share
