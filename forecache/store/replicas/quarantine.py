"""Quarantine in a remote: beside the manifests, so that no home publishes what another one rolled back from."""

from collections.abc import Mapping

from forecache.files import write_durably
from forecache.folders import Folder
from forecache.store.layout import Layout
from forecache.store.replicas.remote_files import content_of, quarantine_name, remote_versions
from forecache.store.store import Store


def push_quarantine(store: Store, remote: Folder) -> list[str]:
    """Quarantine in a remote what is quarantined here; the names of the quarantines there that were lifted here."""
    root, here = store.pipeline, store.quarantined()
    there = remote_versions(remote, root)
    for number, reason in here.items():
        if not there.get(number):
            remote.write(quarantine_name(root, number), reason.encode())
    lifted = set(store.version_numbers()) - here.keys()
    return [quarantine_name(root, number) for number, bad in there.items() if bad and number in lifted]


def pull_quarantine(layout: Layout, remote: Folder, *, lift: bool) -> None:
    """Quarantine here what is quarantined in a remote; `lift`: and nothing else."""
    reasons = quarantined_there(remote, layout.root.name, remote_versions(remote, layout.root.name))
    for number in layout.version_numbers():
        if number in reasons:
            write_durably(layout.quarantine(number), reasons[number])
        elif lift:
            layout.quarantine(number).unlink(missing_ok=True)


def quarantined_there(remote: Folder, name: str, versions: Mapping[int, bool]) -> dict[int, str]:
    """The quarantined ones of `remote_versions`, and why."""
    reasons = {number: content_of(remote, quarantine_name(name, number)) for number, bad in versions.items() if bad}
    return {number: reason.decode() for number, reason in reasons.items() if reason is not None}
