"""Ownership of a real-time model: a small object in the lake names the installation ("home") that releases it.

<lake>/.realtime/<name>/CLAIM    the claim, with the state of the rollout
<store>/.realtime/HOME           the random identity of an installation

A claim is made and moved by a conditional put, so only one of several installations gets it. It does not expire: an
installation that is down for a day still owns its models, and its readers still answer. A person moves the claim.
"""

import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from forecache.base.errors import ConflictError, DamagedError
from forecache.base.files import lock, write_durably
from forecache.base.folders import Folder
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.released_models import REALTIME
from forecache.serve.store.checksummed_json import dump_with_checksum, load_with_checksum

FORMAT = 1


@dataclass(frozen=True)
class Claim:
    """The claim of an installation to release a model.

    Attributes:
        home: Identity of the installation that releases the model.
        host, path: The machine that made the claim, and its store folder.
        since: ISO 8601 in UTC.
        rollout: A summary of the newest rollout; None if there was none.
    """

    name: str
    home: str
    host: str
    path: str
    since: str
    rollout: Mapping[str, Any] | None = None
    format: int = FORMAT

    def __str__(self) -> str:
        return f"the home with the store folder {self.path} on {self.host}, since {self.since[:19]}Z"


def installation_of(folder: ReleaseFolder) -> str:
    """Read the identity of the installation that a release folder belongs to; "" if it has none yet."""
    try:
        return (folder.root.parent / "HOME").read_text().strip()
    except FileNotFoundError:
        return ""


def new_claim(folder: ReleaseFolder) -> Claim:
    """Make a claim of this installation, which gets an identity if it has none. Nothing is written to the lake."""
    place = folder.root.parent
    with lock(place / ".HOME.lock"):
        if not installation_of(folder):
            write_durably(place / "HOME", secrets.token_hex(16))
    now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    return Claim(folder.name, installation_of(folder), socket.gethostname(), str(place.parent), now)


def read_claim(lake: Folder, name: str) -> Claim | None:
    """Read the claim of a model; None if no installation has claimed it.

    Raises:
        DamagedError: The claim is damaged, or has another format.
    """
    found = lake.read(_target(name))
    return None if found is None else _from_json(found[0], name, lake)


def make_claim(lake: Folder, ours: Claim) -> Claim:
    """Claim a model that nobody has claimed; return the valid claim, which may be another installation's.

    Raises:
        DamagedError: As `read_claim`.
    """
    while True:
        found = read_claim(lake, ours.name)
        if found is not None:
            return found
        if lake.swap(_target(ours.name), _to_json(ours), None) is not None:
            return ours
        # Another process was faster, or the reply to this put was lost: read the claim again to find out.


def move_claim(lake: Folder, ours: Claim) -> Claim:
    """Take a model over from the installation that claimed it; a claim that cannot be read is replaced.

    Raises:
        ConflictError: Another installation took it over meanwhile.
    """
    first, tag = _read_even_damaged(lake, ours.name)
    found = first
    while found is None or found.home != ours.home:
        if _owner(found) != _owner(first):
            raise ConflictError(
                f"{ours.name} was taken over meanwhile by {found}.",
                remedy=f"Agree on one home; `forecache release {ours.name} --take-over` there once more if it is this.",
            )
        if lake.swap(_target(ours.name), _to_json(ours), tag) is not None:
            return ours
        # The owner may just have recorded its rollout.
        found, tag = _read_even_damaged(lake, ours.name)
    return found


def record_rollout(lake: Folder, name: str, home: str, rollout: Mapping[str, Any]) -> None:
    """Record the state of a rollout in the claim, unless another installation has claimed the model by now."""
    while True:
        found = lake.read(_target(name))
        claim = None if found is None else _from_json(found[0], name, lake)
        if found is None or claim is None or claim.home != home or claim.rollout == rollout:
            return
        if lake.swap(_target(name), _to_json(replace(claim, rollout=rollout)), found[1]) is not None:
            return


def claimed_elsewhere_error(claim: Claim) -> ConflictError:
    """Make the error for a model that another installation has claimed."""
    return ConflictError(
        f"{claim.name} is released by {claim}.",
        remedy="Do it there. If that home is gone, or shall release it no more, "
        f"`forecache release {claim.name} --take-over` has this home release it.",
    )


def _target(name: str) -> str:
    return f"{REALTIME}/{name}/CLAIM"


def _owner(claim: Claim | None) -> tuple[str, str] | None:
    return None if claim is None else (claim.home, claim.since)


def _read_even_damaged(lake: Folder, name: str) -> tuple[Claim | None, Any]:
    """Read a claim and its tag; the claim is None if there is none or it cannot be read."""
    found = lake.read(_target(name))
    if found is None:
        return None, None
    try:
        return _from_json(found[0], name, lake), found[1]
    except DamagedError:
        return None, found[1]


def _to_json(claim: Claim) -> bytes:
    return dump_with_checksum(asdict(claim))


def _from_json(content: bytes, name: str, lake: Folder) -> Claim:
    what = f"The claim {lake}/{_target(name)}"
    remedy = f"Where no other home releases {name}, `forecache release {name} --take-over` replaces it."
    try:
        data = load_with_checksum(content, what=what)
    except DamagedError as error:
        raise DamagedError(error.message, remedy=remedy) from None
    if data.get("format") != FORMAT:
        raise DamagedError(
            f"{what} has the format {data.get('format')}, and this Forecache reads {FORMAT}.", remedy=remedy
        )
    try:
        return Claim(**data)
    except TypeError:
        raise DamagedError(f"{what} has other fields than a claim.", remedy=remedy) from None
