"""What `forecache releases` shows of another home that releases a model over the same lake."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from forecache.errors import UnavailableError

if TYPE_CHECKING:
    from forecache.realtime.release.claim import Claim
    from forecache.settings import Settings


@dataclass(frozen=True)
class Owner:
    """Who releases a model.

    Attributes:
        other: The claim of another home; None where this home has it, or none has.
        unknown: Why the lake does not say, and what to do; "" where it does.
    """

    other: "Claim | None" = None
    unknown: str = ""


def owner_of(current: "Settings", name: str) -> Owner:
    """Who releases a model, as the lake says."""
    from forecache.operations.rollout.ownership import claim_of
    from forecache.realtime.release.claim import home_of
    from forecache.realtime.release.folder import open_releases

    try:
        claim = claim_of(current, name)
    except UnavailableError as error:
        return Owner(unknown=str(error))
    is_other = claim is not None and claim.home != home_of(open_releases(current, name))
    return Owner(other=claim if is_other else None)


def show_owner(owner: Owner) -> None:
    """Name the other home, and say where its rollout stands."""
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
    """The other home as a row for scripts; none where there is no other."""
    if owner.other is None:
        return []
    it = owner.other
    return [
        {"release": None, "state": ["released elsewhere"], "host": it.host, "path": it.path, "since": it.since,
         "rollout": it.rollout}
    ]  # fmt: skip
