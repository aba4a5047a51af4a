"""Two installations over one lake, with releases made in milliseconds, and what each, the lake and the remote say."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollout_support import NAME

from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.release.folder import ReleasePointer, lock_releases, open_releases, read_files, read_release
from forecache.realtime.release.follow_lake import follow_lake, read_lake_state
from forecache.realtime.release.lake_state import ReleaseState
from forecache.realtime.release.rollout_state import read_rollout, replicated_fields, rollout_from_json


def shared_lake(folder: Path, *, has_remote: bool) -> tuple[Settings, Settings]:
    """Two installations over one lake; without a remote, the files of the releases are in the lake."""
    shared = {"lake": str(folder / "lake"), "store_remote": str(folder / "remote") if has_remote else ""}
    return load_settings(home=folder / "a", **shared), load_settings(home=folder / "b", **shared)


@contextmanager
def away(folder: str) -> Iterator[None]:
    """A lake that cannot be reached."""
    there = Path(folder)
    aside = there.rename(there.with_name(f"{there.name}-away"))
    there.write_text("no folder")
    yield
    there.unlink()
    aside.rename(there)


def answers(settings: Settings) -> tuple[Any, ...]:
    """What readers of an installation go by."""
    folder = open_releases(settings, NAME)
    pointer = read_pointer(folder)
    return pointer.current, pointer.bad, pointer.last, replicated_fields(read_rollout(folder))


def in_lake(settings: Settings) -> tuple[Any, ...]:
    state = read_lake_state(settings, NAME)
    assert state is not None
    return state.pointer.current, state.pointer.bad, state.pointer.last, replicated_fields(state.rollout)


def on_remote(settings: Settings) -> tuple[Any, ...]:
    root = Path(settings.store_remote) / ".realtime" / NAME
    pointer = ReleasePointer.from_json((root / "CURRENT").read_bytes(), what="")
    rollout = rollout_from_json((root / "ROLLOUT").read_bytes(), what="") if (root / "ROLLOUT").exists() else None
    return pointer.current, pointer.bad, pointer.last, replicated_fields(rollout)


def follow(settings: Settings) -> ReleaseState:
    folder = open_releases(settings, NAME)
    with lock_releases(folder, action="test"):
        return follow_lake(settings, folder)


def whole(settings: Settings, *numbers: int) -> None:
    folder = open_releases(settings, NAME)
    for number in numbers:
        read_files(folder.release(number), read_release(folder, number).files)


def unmark(state: ReleaseState, number: int) -> ReleaseState:
    bad = tuple(each for each in state.pointer.bad if each != number)
    return replace(state, pointer=replace(state.pointer, bad=bad))
