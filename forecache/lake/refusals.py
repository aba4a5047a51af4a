"""Values that a Spark job refuses in the middle of its work, and how the refusal comes out of Spark's error."""

import re

from forecache.errors import InputError

REFUSED = "forecache refuses:"
"""Before the sentence of a refusal, which ends with the line."""


def refusal_in(error: Exception) -> InputError | None:
    """The refusal of a value that made a Spark job fail, None where it failed for another reason."""
    found = re.search(rf"{REFUSED} ([^\n]*)", str(error))
    if found is None:
        return None
    sentence = found[1].partition(" SQLSTATE")[0].strip(" '\"")
    return InputError(sentence, remedy="Correct the feature function or the declaration; nothing was written.")
