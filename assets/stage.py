"""Running one stage of the engine inside an asset: progress, errors and retries, the same for all."""

import time
from collections.abc import Callable

import dagster as dg

from forecache.errors import ConflictError, ForecacheError, UnavailableError
from forecache.results import Progress, StageResult
from resources.session import current_session

RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For stages that may meet a passing obstacle; what the user has to mend is never retried, see `run_stage`."""

_LOG_EVERY_S = 2.0


def run_stage(context: dg.AssetExecutionContext, stage: Callable[[Progress], StageResult]) -> StageResult:
    """Call a stage with a progress callback and report its result.

    Raises:
        dagster.Failure: With the sentence of the ForecacheError. It is retried only where another try can help: the
            table was being written by somebody else, or something outside did not answer.
    """
    session = current_session()
    try:
        result = stage(_progress(context))
    except ForecacheError as error:
        if session:
            session.error = error
        again = isinstance(error, ConflictError | UnavailableError)
        raise dg.Failure(description=str(error), allow_retries=again) from error
    except Exception as error:
        if session:
            session.error = error
        raise
    context.log.info(_sentence(result))
    if session:
        session.error = None
        session.done(result)
    return result


def tell(context: dg.AssetExecutionContext, message: str) -> None:
    """Say what goes on between stages, such as a check."""
    _progress(context)(message)


def _progress(context: dg.AssetExecutionContext) -> Progress:
    """To the listening session at once, to Dagster's log at most every two seconds: each line there is a row."""
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
