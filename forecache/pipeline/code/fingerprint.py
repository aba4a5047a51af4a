"""The fingerprint of a declaration: a hash of its values in canonical text and of the project's source that they use.

The text contains the module and name of Forecache's classes (`ValueDescriber._describe_class`): if one is moved or
renamed, the fingerprints of all projects that declare it change, and their stages run again.
"""

import hashlib
from typing import Any

from forecache.pipeline.code.reach import Reach
from forecache.pipeline.code.values import Describer


def fingerprint(**declared: Any) -> str:
    """Hash of named values: equal if the values and the code that their functions run are equal.

    Comments, docstrings and formatting change nothing. The order of the arguments changes nothing either.

    Raises:
        SettingsError: A value cannot be compared between two runs.
    """
    reach = Reach()
    described = Describer(reach).whole({name: declared[name] for name in sorted(declared)})
    reach.finish()
    digest = hashlib.sha256(described.encode())
    for piece in sorted(reach.pieces.items()):
        digest.update("\0".join(("", *piece)).encode())
    return digest.hexdigest()[:16]
