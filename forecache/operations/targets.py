"""Telling Redis and the remote what is served now: where they cannot be reached, the change here stands."""

from collections.abc import Iterator
from contextlib import contextmanager

from forecache.errors import ForecacheError, NotEverywhereError


@contextmanager
def stands_here(pipeline: str, what: str) -> Iterator[None]:
    """Say of whatever goes wrong inside that the change stands here, and how the other places follow.

    Args:
        what: The change in a sentence.

    Raises:
        NotEverywhereError: Something went wrong inside.
    """
    try:
        yield
    except Exception as error:  # the clients of Redis and of object stores have errors of their own
        said = error.message if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}."
        raise NotEverywhereError(
            f"{what} That stands here, but not everywhere {pipeline} is served: {said}",
            remedy=f"When that is mended, run `forecache push {pipeline}`.",
        ) from error
