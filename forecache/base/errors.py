"""The errors a user can meet: one sentence that names the thing, the value and the remedy.

Each class carries the exit code of the command line and the HTTP status of the reader, so that the same
failure reads the same wherever it surfaces. Broken internal invariants are asserts, never these.
"""

from collections.abc import Iterator, Mapping
from typing import Any


class ForecacheError(Exception):
    """A failure that the user can act on."""

    exit_code = 1
    status = 500
    title = "Forecache failed"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy

    def __reduce__(self) -> "tuple[Any, ...]":
        # Pickled by its parts, so that a worker's error reaches its parent unchanged.
        return _rebuild_error, (type(self), self.message, self.remedy, self.__dict__)


def _rebuild_error(kind: type[ForecacheError], message: str, remedy: str, more: dict[str, Any]) -> ForecacheError:
    error = kind.__new__(kind)
    ForecacheError.__init__(error, message, remedy=remedy)
    error.__dict__.update(more)
    return error


class PipelinesFailedError(ForecacheError):
    """Some of several pipelines failed; the others are done.

    Attributes:
        failures: The error of each pipeline, source or module that failed.
    """

    title = "Failed"

    def __init__(self, failures: Mapping[str, BaseException], *, of: int) -> None:
        texts = {name: _describe_error(error) for name, error in failures.items()}
        told = "; ".join(text if of == 1 and name in text else f"{name}: {text}" for name, text in texts.items())
        super().__init__(told if of == 1 else f"{len(failures)} of {of} failed. {told}")
        self.failures = dict(failures)
        codes = {getattr(error, "exit_code", 1) for error in failures.values()}
        self.exit_code = codes.pop() if len(codes) == 1 else 1


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and, one after the other, its causes; each once, even if the chain has a circle."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        yield each
        seen.add(id(each))
        each = each.__cause__ or each.__context__


def _describe_error(error: BaseException) -> str:
    if isinstance(error, ForecacheError):
        return str(error)
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line[:300]}"


class SettingsError(ForecacheError):
    """A setting or a declaration is wrong."""

    exit_code = 2
    title = "Wrong setting"


class NotFoundError(ForecacheError):
    """A pipeline, as-of date, key, version, table or model that does not exist."""

    exit_code = 3
    status = 404
    title = "Not found"


class InputError(ForecacheError):
    """Input that cannot be used: a changed file, a missing column, an as-of date without rows, a bad key."""

    exit_code = 4
    status = 400
    title = "Bad input"


class ConflictError(ForecacheError):
    """Somebody else holds what this call needs: a lock, a port, a version that moved on."""

    exit_code = 5
    status = 409
    title = "Conflict"


class CheckError(ForecacheError):
    """A check or a gate refused; the previous state is unchanged."""

    exit_code = 6
    status = 422
    title = "Check failed"


class UnavailableError(ForecacheError):
    """Something outside is missing: Java, a jar, a service, disk space, a published version."""

    exit_code = 7
    status = 503
    title = "Unavailable"


class UnreachableError(UnavailableError):
    """A lake, a remote or another folder that machines share does not answer, or refuses what was asked of it."""


class NotYetError(ForecacheError):
    """A source has not delivered yet; nothing is wrong, and the same call succeeds once it has."""

    exit_code = 8
    status = 503
    title = "Not yet"


class NotEverywhereError(UnavailableError):
    """The change is made; this machine, Redis or the remote could not be updated."""


class DamagedError(UnavailableError):
    """Stored bytes are not those that were written."""

    title = "Damaged"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy or "Publish again; on a replica, `forecache store pull --verify`.")


PASSING = (ConflictError, UnavailableError, OSError)
"""Errors of a stage that may be over after a while: another process wrote the table, something did not answer."""
RETRY_AFTER_S = (5.0, 10.0)
"""Seconds to wait before each further try of a stage after such an error."""
