"""Steps of a run: assets and ops call stages of the framework with the same progress, errors, retries and lineage."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from functools import wraps
from typing import Any

import dagster as dg

from forecache.base.errors import PASSING, RETRY_AFTER_S, ForecacheError, NotFoundError
from forecache.base.plugins import find_hooks
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.kit.explain_errors import explain_error
from resources.dagster_internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)
from resources.session import current_session

_LOG_EVERY_S = 2.0

REBUILD_TAG = "forecache/rebuild"
"""A run in which this tag is "true" also rebuilds what is up to date."""

Context = dg.AssetExecutionContext | dg.OpExecutionContext


def explain_errors(stage: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Decorate the function of an asset or an op, so that the UI shows an error's own sentence if it fails.

    It is tried again after 5 and then 10 seconds, but only if that can help: another process was writing the table, or
    something outside did not answer. The session gets the original error. (A RetryPolicy of Dagster would also retry
    after a person interrupted the run.)
    """

    @wraps(stage)
    def run_and_explain(context: Context, *args: Any, **inputs: Any) -> Iterator[Any]:
        try:
            yield from stage(context, *args, **inputs)
        except Exception as error:
            session = current_session()
            if session:
                session.error = error
            if isinstance(error, PASSING) and context.retry_number < len(RETRY_AFTER_S):
                raise dg.RetryRequested(len(RETRY_AFTER_S), RETRY_AFTER_S[context.retry_number]) from error
            text = str(error) if isinstance(error, ForecacheError) else str(explain_error(error))
            raise dg.Failure(description=text, allow_retries=False) from error

    return run_and_explain


class RunStep:
    """A step of a run as the function of an asset or an op sees it; a `Run` for stages and checks of the framework."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self.context, self.settings = context, settings
        self.run_id: str = context.run_id
        self.rebuild = context.run.tags.get(REBUILD_TAG) == "true"
        self._session = current_session()  # progress also comes from threads, which have no current session
        self._last_logged = float("-inf")

    @property
    def nights(self) -> tuple[date, ...]:
        return tuple(sorted(date.fromisoformat(key) for key in self.context.partition_keys))

    def _nights_of_run(self) -> list[date]:
        """First and last as-of date of the run; empty if its partitions are no dates."""
        names = (PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
        tags = self.context.run.tags
        try:
            return [date.fromisoformat(tags[name]) for name in names if name in tags]
        except ValueError:
            return []

    def night_of(self, asset: str) -> date:
        """The as-of date of a training set or a candidate, from its newest materialization."""
        event = self.context.instance.get_latest_materialization_event(dg.AssetKey(asset))
        known = event.asset_materialization.metadata if event and event.asset_materialization else {}
        if "as_of" not in known:  # such as a materialization that a person reported in the UI
            raise NotFoundError(
                f"The newest materialization of {asset} names no as-of date, or there is none.",
                remedy="Materialize it first.",
            )
        return date.fromisoformat(str(known["as_of"].value))

    def run_stage(self, stage: Callable[..., StageResult], *arguments: Any, **more: Any) -> StageResult:
        """Call a stage of the framework with this run's id and progress; its result goes to the log and the session."""
        self._last_logged = float("-inf")
        with ExitStack() as around:
            for watch in find_hooks("around_stage"):
                about = {"run_id": self.run_id, "job_name": self.context.job_name, "nights": self._nights_of_run()}
                around.enter_context(watch(self.settings, stage, arguments, **about))
            result = stage(*arguments, **more, run_id=self.run_id, progress=self.progress)
        self.context.log.info(_describe_result(result))
        for night, rows in result.details.get("rows_by_night", {}).items():
            self.context.add_asset_metadata({"dagster/row_count": rows}, partition_key=night)
        if self._session:
            if self.context.retry_number:  # removes the error of this step's previous try, not that of another step
                self._session.error = None
            self._session.add_result(result)
        return result

    def add_objection(self, reason: str) -> None:
        """Keep the reason of a verdict that does not fail the step: it may be the cause of a later failure."""
        if self._session:
            self._session.objections.append(reason)

    def report_progress(self, message: str) -> None:
        """Report work between stages, such as a check."""
        self._last_logged = float("-inf")
        self.progress(message)

    def progress(self, message: str, share: float | None = None) -> None:
        if self._session:
            self._session.progress(message, share)
        if time.monotonic() - self._last_logged >= _LOG_EVERY_S:
            self._last_logged = time.monotonic()
            self.context.log.info(message if share is None else f"{message} ({share:.0%})")


def _describe_result(result: StageResult) -> str:
    where = f" of {result.table}" if result.table else ""
    if result.skipped:
        return f"{result.stage} of {result.subject}: all {result.rows:,} rows{where} were current, nothing was written."
    return f"{result.stage} of {result.subject}: {result.rows:,} rows{where} in {result.seconds:.1f} s."
