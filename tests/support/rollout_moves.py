"""Moves of the rollout of `payments` that are killed after each file they write, and all that is held of it then."""

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from two_installations import FIRST, SECOND

from forecache.base.settings import Settings, load_settings
from forecache.operations.release import release_model, roll_back_release
from forecache.plugins.alerts.journal import read_noted_alerts
from forecache.plugins.rollouts.controller import apply_manual_action

CANDIDATE, NEXT = replace(FIRST, deadline_ms=30.0), replace(FIRST, deadline_ms=40.0)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)?")
_LEFT_OUT = re.compile(r"(^|/)(LOCK|\..*\.lock|ROLLOUT\.seen)$|(^|/)staging/")
"""Locks; what is counted anew where it is missing."""

MOVES: dict[str, Callable[[Settings], object]] = {
    "release": lambda settings: release_model(settings, CANDIDATE),
    "return": lambda settings: apply_manual_action(settings, "payments", "return", "complaints"),
    "rollback": lambda settings: roll_back_release(settings, "payments", reason="complaints"),
    "finish": lambda settings: apply_manual_action(settings, "payments", "finish", "urgent"),
    "next": lambda settings: release_model(settings, NEXT),
}


def homes_in(base: Path) -> tuple[Settings, Settings]:
    """The home that rolls out, and another one over the same lake, with the same remote."""
    shared = {"lake": str(base / "lake"), "store_remote": str(base / "remote")}
    return load_settings(home=base / "ours", **shared), load_settings(home=base / "other", **shared)


def begin_third(settings: Settings) -> None:
    """Releases 1 and 2, which is current, and the rollout of 3."""
    release_model(settings, FIRST)
    release_model(settings, SECOND, at_once=True)
    release_model(settings, CANDIDATE)


def move_until(base: Path, home: int, move: str, writes: int) -> None:
    """Move, and die as soon as so many files are in their place."""
    left, moved = writes, os.replace

    def replaced(*places: Any, **options: Any) -> None:
        nonlocal left
        moved(*places, **options)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replaced
    MOVES[move](homes_in(base)[home])


def held(base: Path) -> dict[str, Any]:
    """All that two homes, their lake and their remote hold of the model, without times, counters and paths."""
    files = sorted(path for path in base.rglob("*") if path.is_file() and "/.realtime/" in str(path))
    found: dict[str, Any] = {}
    for path in files:
        name = str(path.relative_to(base))
        if not _LEFT_OUT.search(name):
            found[name] = _plain(path, {"checksum", "generation", "mark", "history", "numbered"})
    for home, settings in zip(("ours", "other"), homes_in(base), strict=True):
        found[f"alerts of {home}"] = [(each.kind, each.summary) for each in read_noted_alerts(settings)]
    return found


def _plain(path: Path, left_out: set[str]) -> Any:
    content = path.read_bytes()
    if path.name not in ("STATE", "CURRENT", "CURRENT.copy", "ROLLOUT", "release.json"):
        return content
    return _without(json.loads(_TIME.sub("TIME", content.decode())), left_out)


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(each, names) for name, each in value.items() if name not in names}
    return [_without(each, names) for each in value] if isinstance(value, list) else value
