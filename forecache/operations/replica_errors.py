"""The error for a change that is done in the local store, but not in Redis or on the remote."""

from collections.abc import Iterator
from contextlib import contextmanager

from forecache.base.errors import ForecacheError, NotEverywhereError


@contextmanager
def report_replica_failure(pipeline: str, what: str) -> Iterator[None]:
    """Turn any error of the block, which updates replicas, into one that says that the local change is done.

    Args:
        what: The local change, in a sentence.

    Raises:
        NotEverywhereError: The block raised an error.
    """
    try:
        yield
    except Exception as error:  # the clients of Redis and of object stores have errors of their own
        cause = error.message if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}."
        raise NotEverywhereError(
            f"{what} That is done here, but not in every replica of {pipeline}: {cause}",
            remedy=f"Fix the cause, then run `forecache push {pipeline}`.",
        ) from error
