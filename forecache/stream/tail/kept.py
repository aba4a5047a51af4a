"""What a live layer has to keep: the rows above the smallest cut of the versions that may be served."""

from dataclasses import dataclass
from datetime import date

from forecache.errors import ForecacheError
from forecache.store.live.layer import LiveLayer
from forecache.store.store import Store, manifest_of


@dataclass(frozen=True)
class Kept:
    """By the retained versions of a store, which every version that is served, pinned or open is one of.

    Attributes:
        floor: The smallest cut: no version needs a row at or below it. -1: some version, or none at all, has no cut.
        night: The smallest as-of date; None: there is no version.
    """

    floor: int
    night: date | None


NOTHING = Kept(-1, None)


def kept_by(store: Store, layer: LiveLayer) -> Kept | None:
    """What the versions of a store need; None where one cannot be read, so that nothing may be removed.

    A version that is of another stream, or of none, includes nothing of this one.
    """
    try:
        manifests = [manifest_of(store.layout, number) for number in store.version_numbers()]
    except FileNotFoundError:
        return None  # retired meanwhile: the next look sees the others
    except ForecacheError:
        return None
    if not manifests:
        return NOTHING
    cuts = [manifest.cut if manifest.stream == layer.stream else -1 for manifest in manifests]
    return Kept(min(cuts), date.fromisoformat(min(manifest.as_of for manifest in manifests)))
