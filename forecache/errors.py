"""The errors a user can meet: one sentence that names the thing, the value and the remedy.

Each class carries the exit code of the command line and the HTTP status of the reader, so that the same
failure reads the same wherever it surfaces. Broken internal invariants are asserts, never these.
"""


class ForecacheError(Exception):
    """A failure that the user can act on."""

    exit_code = 1
    status = 500
    title = "Forecache failed"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.message = message
        self.remedy = remedy


class SettingsError(ForecacheError):
    """A setting or a declaration is wrong."""

    exit_code = 2
    title = "Wrong setting"


class NotFoundError(ForecacheError):
    """A pipeline, night, key, version, table or model that does not exist."""

    exit_code = 3
    status = 404
    title = "Not found"


class InputError(ForecacheError):
    """Input that cannot be used: a changed file, a missing column, an empty night, a bad key."""

    exit_code = 4
    status = 400
    title = "Bad input"


class ConflictError(ForecacheError):
    """Somebody else holds what this call needs: a lock, a port, a version that moved on."""

    exit_code = 5
    status = 409
    title = "Conflict"


class CheckError(ForecacheError):
    """A check or a gate said no; what was there before is untouched."""

    exit_code = 6
    status = 422
    title = "Check failed"


class UnavailableError(ForecacheError):
    """Something outside is missing: Java, a jar, a service, disk space, a published version."""

    exit_code = 7
    status = 503
    title = "Unavailable"
