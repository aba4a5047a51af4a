"""The state of a store in a remote that several installations push to, and the check before this one replaces it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.kit.versioned.transfer import read_content
from forecache.serve.store.manifest import manifest_from_json
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.replicas.remote_files import manifest_name, read_quarantine_reasons, remote_versions
from forecache.serve.store.replicas.sync import open_remote


@dataclass(frozen=True)
class PublishStart:
    """The state that a publish starts from.

    Attributes:
        pointer: That of this installation, with the highest version number that was used here or in the remote.
        quarantined: The versions that are quarantined in the remote, with reasons, by the inputs of their content.
    """

    pointer: Pointer
    quarantined: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def find_publish_start(settings: Settings, name: str, pointer: Pointer, *, replace_remote: bool) -> PublishStart:
    """Find the state to publish from, by the local pointer and the remote.

    A remote that cannot be read does not prevent a local publish: the push reads it again, and fails.

    Args:
        replace_remote: Publish over a remote state that this installation has not pulled.

    Raises:
        ConflictError: The remote has a store that is missing here, or another installation moved its pointer.
    """
    if not settings.store_remote:
        return PublishStart(pointer)
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
        return PublishStart(pointer)
    last = max([pointer.last, *versions] if there is None else [pointer.last, there.last, *versions])
    if replace_remote:
        moves = pointer.moves if there is None else there.moves
        return PublishStart(replace(pointer, last=last, moves=moves))
    require_descendant(name, pointer, there)
    return PublishStart(replace(pointer, last=last), quarantined)


def require_descendant(name: str, here: Pointer, there: Pointer | None) -> None:
    """Refuse to move a remote's pointer to a local state that does not descend from the remote's.

    Raises:
        ConflictError: It does not; with the remedy.
    """
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
