"""Failures of the watching thread as they are logged: a sentence for what is expected, a traceback for a defect."""

import errno
import os
import resource
from collections.abc import Iterator
from typing import NamedTuple

from forecache.errors import ForecacheError

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class Failure(NamedTuple):
    """An error as it is logged.

    Attributes:
        reason: Equal as long as the same problem persists, so that it is logged once.
        text: A sentence.
        trace: The error if its traceback is needed; None if it is no defect.
    """

    reason: str
    text: str
    trace: Exception | None


def failure_of(error: Exception) -> Failure:
    """Classify an error. Without free file descriptors each try fails at another file or import: that is one reason."""
    if any(map(_is_out_of_files, _chain(error))):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        text = (
            f"Too many open files: this process may have {most} (`ulimit -n`); raise that, or allow fewer connections."
        )
        return Failure("Too many open files", text, None)
    expected = isinstance(error, (ForecacheError, OSError))
    return Failure(f"{type(error).__name__}: {error}", str(error) or repr(error), None if expected else error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_out_of_files(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _OUT_OF_FILES
    return isinstance(error, ImportError) and any(os.strerror(number) in str(error) for number in _OUT_OF_FILES)
