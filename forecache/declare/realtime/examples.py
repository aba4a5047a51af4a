"""The training examples of a real-time model: past requests with their outcomes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_column
from forecache.declare.checks import check_arguments, check_fields, check_least, check_value
from forecache.declare.sources.source import AnySource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


LOG = "log"
"""Name of the request log among the rows that `compute` gets."""


@dataclass(frozen=True)
class Examples:
    """Past requests, and the label of each of their rows.

    `compute(rows, first, last)` gets `{source name: rows}`, all events of the dates from `first` to `last`, of the
    `history_days` before and the `horizon_days` after them. It
    returns a row for each candidate (or one for each request): `request_id` (string), `event_timestamp` (timestamp,
    UTC: when the request was made), `position` (int, from 0: the candidate's place in the request), the fields of the
    request and of the candidate, and `label`. A request sees the features of the newest as-of date that had ended and
    was published when it was made.

    With `from_log` the rows also have "log": the answers of this model on these dates (see `Realtime.log`), a row for
    each candidate of each logged request, to be joined with the outcomes. It has `request_id`,
    `event_timestamp`, `position`, the fields of the request and of the candidate, and how it was answered: `shown`
    (int: the candidate's place in the answer, from 1), `score` (double, null without), `answered_by`, `release`
    (bigint) and `variant`.

    Attributes:
        label: Name of the label's column.
        kind: "binary" (0.0 or 1.0), "regression", or "ranking": the relevance of a candidate, a whole number from 0 to
            30, compared within its request.
        from_log: Learn from the model's own traffic: `compute` gets the request log as a further source.
        weight: A further column with the weight of a row, or for a ranking of a request; "": all count the same.
        train_days: Days of requests in the training split. After them come `validation_days`, then `test_days`, which
            end `horizon_days` before the date of the training, so that every outcome is known.
        horizon_days: Days after a request until its outcome is known; also the gap between two splits.
        history_days: Days before the first request that `compute` sees.
        published_h: Hours after midnight, UTC, until the nightly run has published the features of the day before: a
            request that was made earlier sees those of the date before it. With 0 it learns from features that no
            reader had yet.
    """

    sources: tuple[AnySource, ...]
    compute: "Callable[[Mapping[str, DataFrame], object, object], DataFrame]"
    label: str
    kind: Literal["binary", "regression", "ranking"]
    train_days: int = 60
    validation_days: int = 7
    test_days: int = 14
    horizon_days: int = 1
    history_days: int = 0
    published_h: float = 0.0
    weight: str = ""
    from_log: bool = False

    def __post_init__(self) -> None:
        check_fields("`Examples`", self)
        check_arguments("`Examples`", "compute", self.compute, "rows", "first", "last")
        check_value("`Examples`", "sources", self.sources, bool(self.sources), "Declare at least one.")
        if self.from_log and any(source.name == LOG for source in self.sources):
            raise SettingsError(
                f"`Examples` learns from the log and has a source named {LOG!r}, which is what the log is called.",
                remedy="Give the source another name.",
            )
        check_column("`Examples`", self.label)
        check_least("`Examples`", self, 1, "train_days", "validation_days", "test_days")
        check_least("`Examples`", self, 0, "horizon_days", "history_days", "published_h")
        check_value("`Examples`", "published_h", self.published_h, self.published_h <= 24, "It is at most 24.")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.label, self.weight) if self.weight else (self.label,)


@dataclass(frozen=True)
class Log:
    """The request log of a real-time model: a row for each answer, in the lake's table `request_log_<name>`.

    Attributes:
        by: Request fields that together are the key. The key's hash decides whether a request is logged, so that all
            requests of a key are in the log, or none. A single name may be given as a text.
        sample: Share of the keys that are logged, above 0 and at most 1.
        keep_days: Days after which logged requests are removed.
    """

    by: tuple[str, ...]
    sample: float = 1.0
    keep_days: int = 30

    def __post_init__(self) -> None:
        if isinstance(cast(object, self.by), str):
            object.__setattr__(self, "by", (self.by,))
        check_fields("`Log`", self)
        check_value("`Log`", "by", self.by, bool(self.by), "Name the request fields that hold the key.")
        check_value("`Log`", "sample", self.sample, 0 < self.sample <= 1, "Give a share above 0 and at most 1.")
        check_least("`Log`", self, 1, "keep_days")
