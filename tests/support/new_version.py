"""Another version of an installed package, as this process finds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import pytest

from forecache.models.inference import environment


@contextmanager
def new_version_of(package: str) -> Iterator[None]:
    """The next version of a package is installed during the block."""
    installed = metadata.version
    environment._installed_version.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(metadata, "version", lambda name: installed(name) + ".1" * (name == package))
        yield
    environment._installed_version.cache_clear()
