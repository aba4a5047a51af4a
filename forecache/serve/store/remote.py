"""The files of a store in a remote that several installations push to: state, manifests, quarantines, retention."""

from collections.abc import Mapping
from dataclasses import replace

from forecache.base.errors import ConflictError, DamagedError
from forecache.base.files import write_durably
from forecache.base.folders import Folder, LocalFolder, open_folder
from forecache.base.settings import Settings
from forecache.kit.versioned.leases import surplus_versions
from forecache.kit.versioned.transfer import read_content
from forecache.serve.store.integrity import version_files
from forecache.serve.store.layout import StoreLayout, remove_if_abandoned
from forecache.serve.store.manifest import manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.store import Store


def open_remote(uri: str, options: Mapping[str, str]) -> Folder:
    """Open the folder or bucket of pushed versions, named as in the store; raises SettingsError or UnavailableError."""
    return open_folder(uri, options, setting="FORECACHE_STORE_REMOTE")


def remote_pipelines(remote: Folder) -> list[str]:
    return sorted(name for name in remote.folders() if remote.size(f"{name}/CURRENT") is not None)


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


Quarantines = Mapping[str, tuple[int, str]]  # versions with reasons, by the inputs of their content


def find_publish_start(
    settings: Settings, name: str, pointer: Pointer, *, replace_remote: bool
) -> tuple[Pointer, Quarantines]:
    """Find the pointer to publish from, with the last version number here or in the remote, and the remote's
    quarantines.

    A remote that cannot be read does not prevent a local publish: the push reads it again, and fails. Raises
    ConflictError if the remote has a state that was not pulled here, unless `replace_remote`.
    """
    if not settings.store_remote:
        return pointer, {}
    remote = open_remote(settings.store_remote, settings.storage_options)
    try:
        content = read_content(remote, f"{name}/CURRENT")
        there = None if content is None else Pointer.from_json(content)
        versions = remote_versions(remote, name)
        if not replace_remote:
            quarantined = {
                manifest_from_json(manifest, what=f"The remote's version {number} of {name}").inputs: (number, reason)
                for number, reason in read_quarantine_reasons(remote, name, versions).items()
                if (manifest := read_content(remote, manifest_name(name, number)))
            }
    except Exception:  # the clients of object stores have errors of their own
        if replace_remote:
            raise
        return pointer, {}
    last = max([pointer.last, *versions] if there is None else [pointer.last, there.last, *versions])
    if replace_remote:
        moves = pointer.moves if there is None else there.moves
        return replace(pointer, last=last, moves=moves), {}
    require_descendant(name, pointer, there)
    return replace(pointer, last=last), quarantined


def require_descendant(name: str, here: Pointer, there: Pointer | None) -> None:
    """Raise ConflictError if a remote's pointer would move to a local state that does not descend from the remote's."""
    if there is None or here.descends_from(there):
        return
    if not here.store:
        raise ConflictError(
            f"The remote has version {there.serving} of {name}, and this home has no store of it.",
            remedy=f"`forecache pull {name}` continues that store here; "
            f"`forecache publish {name} --replace-remote` puts a new one in its place.",
        )
    raise moved_by_another_error(name)


def moved_by_another_error(name: str) -> ConflictError:
    return ConflictError(
        f"The remote's {name}/CURRENT was moved by another publisher, from a state that this home has not seen.",
        remedy=f"What is there stands. `forecache pull {name}` brings it here; then publish again. "
        f"`forecache publish {name} --replace-remote` puts what this home has in its place.",
    )


def remove_retired(layout: StoreLayout, remote: Folder, pointer: Pointer, *, keep: int) -> None:
    """Delete the versions of a remote beyond the newest `keep` besides the current and the pinned one.

    Also deletes their files that no other version there uses. Files that no manifest names are kept: another
    installation may be about to push them. Deletes nothing while a manifest is damaged, or if another installation has
    moved the pointer meanwhile.
    """
    name = layout.root.name
    numbers = sorted(remote_versions(remote, name))
    retired = surplus_versions(numbers, keep=keep, needed=(pointer.current, pointer.pinned))
    if not retired:
        return
    try:
        contents = {number: read_content(remote, manifest_name(name, number)) for number in numbers}
        manifests = [
            manifest_from_json(content, what=f"The remote's version {number} of {name}")
            for number, content in contents.items()
            if content is not None
        ]
    except DamagedError:
        return
    needed, gone = set[str](), set[str]()
    for each in manifests:
        names = {f"{name}/{file}" for _, file, _ in version_files(layout, each)}
        (gone if each.version in retired else needed).update(names)
    if read_content(remote, f"{name}/CURRENT") != pointer.to_json():
        return
    remote.delete([name_of(name, number) for name_of in (manifest_name, quarantine_name) for number in retired])
    if isinstance(remote, LocalFolder):
        remote.delete([f"{name}/versions/.{number:08d}.json.lock" for number in retired])
    remote.delete(sorted(gone - needed))


def remove_unfinished(remote: Folder, name: str) -> None:
    """Delete unfinished files of killed processes in a folder; a bucket never shows a part of a file."""
    for path in (remote.root / name).rglob(".*.tmp*") if isinstance(remote, LocalFolder) else ():
        remove_if_abandoned(path)
