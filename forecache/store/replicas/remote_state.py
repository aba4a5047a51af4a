"""A remote that several homes push to: what it has of a store, and what this home may put in its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from forecache.errors import ConflictError
from forecache.settings import Settings
from forecache.store.manifest_json import manifest_from_json
from forecache.store.pointer import Pointer, pointer_from_json
from forecache.store.replicas.remote_files import content_of, manifest_name, quarantined_there, remote_versions
from forecache.store.replicas.sync import open_remote


@dataclass(frozen=True)
class Start:
    """The state that a publish starts from.

    Attributes:
        pointer: That of this home, with the highest number that was given out here or in the remote.
        quarantined: The versions that are quarantined in the remote by the inputs of their content, and why.
    """

    pointer: Pointer
    quarantined: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def start_from(settings: Settings, name: str, pointer: Pointer, *, replace_remote: bool) -> Start:
    """Find the state to publish from, beside that of the remote.

    A remote that cannot be read keeps nobody from publishing here: the push looks again, and fails.

    Args:
        replace_remote: Publish over what this home has not seen.

    Raises:
        ConflictError: The remote has a store that this home has not, or another home moved its pointer.
    """
    if not settings.store_remote:
        return Start(pointer)
    remote = open_remote(settings.store_remote, settings.storage_options)
    try:
        content = content_of(remote, f"{name}/CURRENT")
        there = None if content is None else pointer_from_json(content)
        versions = remote_versions(remote, name)
        if not replace_remote:
            quarantined = {
                manifest_from_json(manifest, what=f"The remote's version {number} of {name}").inputs: (number, reason)
                for number, reason in quarantined_there(remote, name, versions).items()
                if (manifest := content_of(remote, manifest_name(name, number)))
            }
    except Exception:  # the clients of object stores have errors of their own
        if replace_remote:
            raise
        return Start(pointer)
    last = max([pointer.last, *versions] if there is None else [pointer.last, there.last, *versions])
    if replace_remote:
        moves = pointer.moves if there is None else there.moves
        return Start(replace(pointer, last=last, moves=moves))
    require_seen(name, pointer, there)
    return Start(replace(pointer, last=last), quarantined)


def require_seen(name: str, here: Pointer, there: Pointer | None) -> None:
    """Refuse to move a remote's pointer to this home's state if that does not come from the remote's.

    Raises:
        ConflictError: The message says what to do.
    """
    if there is None or here.has_seen(there):
        return
    if not here.store:
        raise ConflictError(
            f"The remote has version {there.serving} of {name}, and this home has no store of it.",
            remedy=f"`forecache pull {name}` continues that store here; "
            f"`forecache publish {name} --replace-remote` puts a new one in its place.",
        )
    raise moved_by_another(name)


def moved_by_another(name: str) -> ConflictError:
    return ConflictError(
        f"The remote's {name}/CURRENT was moved by another publisher, from a state that this home has not seen.",
        remedy=f"What is there stands. `forecache pull {name}` brings it here; then publish again. "
        f"`forecache publish {name} --replace-remote` puts what this home has in its place.",
    )
