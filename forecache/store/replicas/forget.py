"""Removing from a remote what its publisher has retired."""

from forecache.folders import Folder
from forecache.store.integrity import version_files
from forecache.store.store import Store


def forget(store: Store, remote: Folder) -> None:
    """Delete from the remote what no retained version of the publisher uses, manifests first."""
    root = store.pipeline
    retained = store.versions()
    keep = {f"{root}/versions/{store.layout.manifest(manifest.version).name}" for manifest in retained}
    keep |= {f"{root}/{name}" for manifest in retained for _, name, _ in version_files(store.layout, manifest)}
    for folder in ("versions", "segments", "filters"):
        remote.delete([name for name in remote.names(f"{root}/{folder}") if name not in keep])
