"""The owner of a real-time model's releases, if it is another installation over the same lake."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import UnavailableError

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.realtime.release.claim import Claim


@dataclass(frozen=True)
class Owner:
    """The owner of a model's releases.

    Attributes:
        other: The claim of another installation; None if this one has the claim, or none has.
        unknown: The reason if the lake cannot be read, with the remedy; else "".
    """

    other: "Claim | None" = None
    unknown: str = ""


def owner_of(current: "Settings", name: str) -> Owner:
    """Read the owner of a model's releases from the lake."""
    from forecache.plugins.rollouts.ownership import claim_of
    from forecache.realtime.release.claim import installation_of
    from forecache.realtime.release.folder import open_releases

    try:
        claim = claim_of(current, name)
    except UnavailableError as error:
        return Owner(unknown=str(error))
    is_other = claim is not None and claim.home != installation_of(open_releases(current, name))
    return Owner(other=claim if is_other else None)


def show_owner(owner: Owner) -> None:
    """Print the other owner and the state of its rollout."""
    if owner.unknown:
        click.echo(f"\n{owner.unknown}")
    if owner.other is None:
        return
    click.echo(f"\nReleased by {owner.other}.")
    if owner.other.rollout is not None:
        it = owner.other.rollout
        paused = ", paused" if it["paused"] else ""
        share = f" at {it['share']:g} of the keys" if it["share"] else ""
        where = f"release {it['release']}, {it['stage']}{share}{paused}, since {it['since'][:19]}Z"
        click.echo(f"Its rollout: {where}. {it['why']}")


def owner_dict(owner: Owner) -> list[dict[str, Any]]:
    """The other owner as a row for scripts; [] if there is none."""
    if owner.other is None:
        return []
    it = owner.other
    return [
        {"release": None, "state": ["released elsewhere"], "host": it.host, "path": it.path, "since": it.since,
         "rollout": it.rollout}
    ]  # fmt: skip
