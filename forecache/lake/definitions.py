"""The definitions of fingerprints that the ledger names, each kept once in the lake: `.state/definitions/<hash>.json`.

They only explain, so that a later plan can say what has changed: no stage needs one, and one that is missing is no
error.
"""

import json
import logging
import re
from collections.abc import Iterable
from contextlib import suppress

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare.code.definition import Definition, find_definition
from forecache.kit.installation import open_state

logger = logging.getLogger("forecache.definitions")
_FINGERPRINT = re.compile(r"\b[0-9a-f]{16}\b")
_kept: set[tuple[str, str]] = set()
"""Lakes and fingerprints of which this process knows that they are there."""


def keep_fingerprint_definitions(settings: Settings, inputs: Iterable[str]) -> None:
    """Write the definitions of the fingerprints in texts of inputs that the lake does not have yet."""
    for fingerprint in {found for text in inputs for found in _FINGERPRINT.findall(text)}:
        if (settings.lake_uri, fingerprint) in _kept:
            continue
        try:
            definition = find_definition(fingerprint)
            if definition is None:
                continue
            state = open_state(settings)
            if state.size(_file_name(fingerprint)) is None:
                content = json.dumps(definition.to_json(), separators=(",", ":"))
                state.write(_file_name(fingerprint), content.encode())
        except (ForecacheError, OSError) as error:  # the result is recorded, and a failure would say that it is not
            logger.warning("The definition of the fingerprint %s is not kept: %s", fingerprint, error)
            return
        _kept.add((settings.lake_uri, fingerprint))


def read_fingerprint_definition(settings: Settings, fingerprint: str) -> Definition | None:
    """The definition of a fingerprint, kept in the lake or made by this process; None if it is not known."""
    found = open_state(settings).read(_file_name(fingerprint))
    if found is not None:
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # damaged, or of another version of Forecache
            return Definition.from_json(json.loads(found[0]))
    return find_definition(fingerprint)


def _file_name(fingerprint: str) -> str:
    return f"definitions/{fingerprint}.json"
