"""Libraries of models without what they import for training, in processes that only answer requests.

LightGBM imports pandas and scikit-learn where they are installed, for its wrappers. Without them it takes 0.3 s instead
of 1.3 s to import, and a process 55 MB instead of 188 MB; a Booster predicts the same.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_HIDDEN = ("dask", "matplotlib", "pandas", "sklearn")
_process = {"only_answers": False}


def only_answer() -> None:
    """Say that this process trains nothing, so that its libraries may be imported without what training needs."""
    _process["only_answers"] = True


@contextmanager
def importing_alone() -> Iterator[None]:
    """Imports inside find none of the libraries that only training needs, unless the process has them already."""
    hidden = [name for name in _HIDDEN if _process["only_answers"] and name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: it cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, name) is None:
                del sys.modules[name]
