"""Errors that a Spark task raises for a value, and how to find them in the error of the Spark job."""

import re

from forecache.errors import InputError

REFUSED = "forecache refuses:"
"""Marks the message of a refused value in the error of a Spark job; the message ends at the end of the line."""


def refusal_in(error: Exception) -> InputError | None:
    """The error of a value that a task refused; None if the Spark job failed for another reason."""
    found = re.search(rf"{REFUSED} ([^\n]*)", str(error))
    if found is None:
        return None
    sentence = found[1].partition(" SQLSTATE")[0].strip(" '\"")
    return InputError(sentence, remedy="Correct the feature function or the declaration; nothing was written.")
