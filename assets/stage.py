"""Running one stage of the engine inside an asset: progress, errors and retries, the same for all."""

import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import dagster as dg

from forecache.errors import ConflictError, ForecacheError, UnavailableError
from forecache.results import Progress, StageResult
from forecache.unforeseen import explain
from resources.session import current_session

MAX_RETRIES = 2
_FIRST_DELAY_S = 5
_PASSING = (ConflictError, UnavailableError, OSError)
_LOG_EVERY_S = 2.0

REBUILD_TAG = "forecache/rebuild"
"""A run with this tag, "true", does again also what is current."""

Context = dg.AssetExecutionContext | dg.OpExecutionContext


def explained(stage: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Decorate the function of an asset or an op: what makes it fail is said in the error's own sentence.

    A retry, after 5 and then 10 seconds, follows only where another try can help: the table was being written by
    somebody else, or something outside did not answer. The listening session gets the error as it was. (A RetryPolicy
    would do less: Dagster retries by it even what a person interrupted.)
    """

    @wraps(stage)
    def explained_stage(context: Context, *args: Any, **inputs: Any) -> Iterator[Any]:
        try:
            yield from stage(context, *args, **inputs)
        except Exception as error:
            session = current_session()
            if session:
                session.error = error
            if isinstance(error, _PASSING) and context.retry_number < MAX_RETRIES:
                raise dg.RetryRequested(MAX_RETRIES, _FIRST_DELAY_S * 2**context.retry_number) from error
            text = str(error) if isinstance(error, ForecacheError) else str(explain(error))
            raise dg.Failure(description=text, allow_retries=False) from error

    return explained_stage


def run_stage(context: Context, stage: Callable[[Progress], StageResult]) -> StageResult:
    """Call a stage of the engine with a progress callback; its result goes to the log and to the session."""
    result = stage(telling(context))
    context.log.info(_sentence(result))
    session = current_session()
    if session:
        session.error = None
        session.done(result)
    return result


def is_rebuild(context: Context) -> bool:
    """Whether the run was asked to do again also what is current."""
    return context.run.tags.get(REBUILD_TAG) == "true"


def tell(context: Context, message: str) -> None:
    """Say what goes on between stages, such as a check."""
    telling(context)(message)


def telling(context: Context) -> Progress:
    """Progress to the listening session at once, to the log at most every two seconds: each line there is a row."""
    session = current_session()
    last_logged = float("-inf")

    def report(message: str, share: float | None = None) -> None:
        nonlocal last_logged
        if session:
            session.progress(message, share)
        if time.monotonic() - last_logged >= _LOG_EVERY_S:
            last_logged = time.monotonic()
            context.log.info(message if share is None else f"{message} ({share:.0%})")

    return report


def _sentence(result: StageResult) -> str:
    where = f" of {result.table}" if result.table else ""
    if result.skipped:
        return f"{result.stage} of {result.subject}: all {result.rows:,} rows{where} were current, nothing was written."
    return f"{result.stage} of {result.subject}: {result.rows:,} rows{where} in {result.seconds:.1f} s."
