"""The lease of a folder, taken over as another machine does."""

import json
from dataclasses import asdict, replace

from forecache.base.folders import Folder
from forecache.kit.lease import Holder, read_leases


def take_over_lease(folder: Folder) -> Holder:
    """Put a process of another machine in the place of the one holder; returns the one that held it.

    By compare-and-swap, as a plain write could fall into a renewal, which would then write over it.
    """
    [held] = read_leases(folder)
    name = f".leases/{held.name}.json"
    other = replace(held, host="gpu-7", machine="another boot", mark="of the other", token=held.token + 1)
    while (found := folder.read(name)) and not folder.swap(name, json.dumps(asdict(other)).encode(), found[1]):
        pass  # it was renewed in between
    return held
