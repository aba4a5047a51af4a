"""The error of a key that a version does not have."""

from forecache.errors import NotFoundError
from forecache.store.manifest import Manifest


def no_such_key(manifest: Manifest, key: str) -> NotFoundError:
    """The error of a key that a version does not have."""
    names = ", ".join(manifest.key.names)
    return NotFoundError(
        f"Version {manifest.version} of {manifest.pipeline} has no key {key!r}.",
        remedy=f"Its {manifest.rows:,} keys are values of {names}, known on {manifest.as_of}.",
    )
