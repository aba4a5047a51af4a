"""The result that every stage of a pipeline returns, for the command line, Dagster and reports alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

Progress = Callable[[str, float | None], None]
"""Called by long stages with a sentence and the share done in [0, 1], or None if that is not known."""


@dataclass(frozen=True)
class StageResult:
    """The outcome of one stage for one or more nights.

    Attributes:
        stage: The stage's name: "ingest", "features", "training_set", "train", "register", "score", "publish".
        subject: The pipeline's or, for ingestion, the source's name.
        nights: The as-of dates (or landing days) of the result, ascending; empty for a stage without dates.
        rows: Rows written, or rows already there if the stage was skipped.
        seconds: Wall time of the stage.
        table: Name of the lake table written; "" if there is none.
        delta_version: Delta version of that table after the stage; None if none was written.
        skipped: True if everything was up to date, so that nothing was written.
        details: Further figures for people: JSON-serialisable values only.
    """

    stage: str
    subject: str
    rows: int
    seconds: float
    nights: tuple[date, ...] = ()
    table: str = ""
    delta_version: int | None = None
    skipped: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


def no_progress(message: str, share: float | None = None) -> None:
    """The default `Progress`: does nothing."""
