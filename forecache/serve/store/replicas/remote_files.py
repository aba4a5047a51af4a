"""The small files of a store in a remote: manifests, and quarantines, which hold for all installations."""

from collections.abc import Mapping

from forecache.base.files import write_durably
from forecache.base.folders import Folder
from forecache.kit.versioned.transfer import read_content
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.store import Store


def remote_versions(remote: Folder, name: str) -> dict[int, bool]:
    """The versions of which a remote has the manifest, in any order, and whether each is quarantined there."""
    files = {file.rpartition("/")[2] for file in remote.names(f"{name}/versions")}
    numbers = [stem for file in files if (stem := file.removesuffix(".json")).isdigit()]
    return {int(stem): f"{stem}.bad" in files for stem in numbers}


def manifest_name(name: str, version: int) -> str:
    return f"{name}/versions/{version:08d}.json"


def quarantine_name(name: str, version: int) -> str:
    return f"{name}/versions/{version:08d}.bad"


def push_quarantine(store: Store, remote: Folder) -> list[str]:
    """Copy quarantines to a remote; returns the names of those there that were lifted here."""
    root, here = store.pipeline, store.quarantined_versions()
    there = remote_versions(remote, root)
    for number, reason in here.items():
        if not there.get(number):
            remote.write(quarantine_name(root, number), reason.encode())
    lifted = set(store.version_numbers()) - here.keys()
    return [quarantine_name(root, number) for number, bad in there.items() if bad and number in lifted]


def pull_quarantine(layout: StoreLayout, remote: Folder, *, lift: bool) -> None:
    """Copy quarantines from a remote; with `lift`, also lift those that the remote does not have."""
    reasons = read_quarantine_reasons(remote, layout.root.name, remote_versions(remote, layout.root.name))
    for number in layout.numbers():
        if number in reasons:
            write_durably(layout.quarantine(number), reasons[number])
        elif lift:
            layout.quarantine(number).unlink(missing_ok=True)


def read_quarantine_reasons(remote: Folder, name: str, versions: Mapping[int, bool]) -> dict[int, str]:
    """The quarantined ones of `remote_versions`, with their reasons."""
    reasons = {number: read_content(remote, quarantine_name(name, number)) for number, bad in versions.items() if bad}
    return {number: reason.decode() for number, reason in reasons.items() if reason is not None}
