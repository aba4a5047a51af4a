"""Two installations over one lake, one of which rolls a release of the model `payments` out."""

from dataclasses import replace
from pathlib import Path

from asked_project.pipelines.payments import payments

from forecache.base.settings import Settings, load_settings
from forecache.declare import Log, Rollout
from forecache.operations.release import release_model
from forecache.realtime.release.folder import ReleaseFolder, open_releases
from forecache.realtime.release.rollout_state import RolloutState, read_rollout

FIRST = replace(
    payments,
    log=Log("household_id"),
    rollout=Rollout(shares=(0.5,), shadow_share=0.0, requests=100, hours=0.0),
)
SECOND = replace(FIRST, deadline_ms=20.0)


def two_homes(folder: Path) -> tuple[Settings, Settings]:
    """Two homes over one lake, with one remote."""
    shared = {"lake": str(folder / "lake"), "store_remote": str(folder / "remote")}
    return load_settings(home=folder / "a", **shared), load_settings(home=folder / "b", **shared)


def begin_rollout(settings: Settings) -> None:
    """Roll release 2 out."""
    release_model(settings, FIRST)
    release_model(settings, SECOND)


def folder_of(settings: Settings) -> ReleaseFolder:
    return open_releases(settings, "payments")


def state_of(settings: Settings) -> RolloutState:
    state = read_rollout(folder_of(settings))
    assert state is not None
    return state


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def state_file(settings: Settings) -> Path:
    return Path(settings.lake_uri) / ".realtime/payments/STATE"
