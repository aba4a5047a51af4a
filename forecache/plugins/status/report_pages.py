"""The page on one name in the server, made by a process of its own, so that the server imports nothing of the lake."""

import subprocess
import sys
import threading
import time

from forecache.plugins.status.page.document import page
from forecache.plugins.status.page.markup import mark_code, tag

_KEPT_S, _LIMIT_S, _PATIENCE_S, _MOST = 30.0, 60.0, 2.0, 64


class ReportPages:
    """Pages by name and option, each kept for half a minute. One is made at a time, so that many requests start no more
    processes, and hold no more threads than for a moment. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[tuple[str, str], tuple[float, bytes]] = {}

    def page(self, name: str, *, key: str = "", version: int | None = None) -> bytes:
        """The page on a name, with the answer for a key unless that is "", or the report of a version of its model; a
        page that says why, if it fails."""
        option = f"--version={version}" if version is not None else f"--key={key}" if key else ""
        if (recent := self._find_recent(name, option)) is not None:
            return recent
        if not self._lock.acquire(timeout=_PATIENCE_S):
            return _problem(name, "Another page is being made. Load this one again in some seconds.")
        try:
            body = self._find_recent(name, option)  # who had the lock may have made this very page
            if body is None:
                body = _make(name, option)
                others = {} if len(self._made) >= _MOST else self._made
                self._made = {**others, (name, option): (time.monotonic(), body)}
            return body
        finally:
            self._lock.release()

    def _find_recent(self, name: str, option: str) -> bytes | None:
        """The page if it was made in the last half minute."""
        made = self._made.get((name, option))
        return made[1] if made is not None and time.monotonic() - made[0] < _KEPT_S else None


def _make(name: str, option: str) -> bytes:
    command = [sys.executable, "-m", "forecache.cli.main", "report", name, "--output", "-", "--in-server"]
    try:
        done = subprocess.run([*command, *filter(None, [option])], capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return _problem(name, f"The page took longer than {_LIMIT_S:g} s. Run `forecache report {name}`.")
    if done.returncode:
        return _problem(name, done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["It failed."])
    return done.stdout


def _problem(name: str, sentences: str | list[str]) -> bytes:
    text = sentences if isinstance(sentences, str) else " ".join(sentences)
    header = tag("header", tag("h1", name), class_="top")
    return page(f"{name} – Forecache", "warning", header, tag("main", tag("p", mark_code(text), class_="bad")))
