"""A sidecar of the reader that reads the project's part of the status page, as the reader itself loads no lake.

While the page is viewed, the main process of `forecache serve` starts a short process once a minute, with the lowest
priority, which reads the ledger and the alerts, and writes its output to a file, which each worker's extension reads.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.files import write_durably
from forecache.plugins.status.reader.attention import Attention

if TYPE_CHECKING:
    import asyncio

    from forecache.plugins.status.reader.history import History, ModelCounts
    from forecache.serve.reader.http.extension import ExtensionContext, Handler, MakeExtension
    from forecache.serve.reader.versions.watcher import RunOnLoop

logger = logging.getLogger("forecache.reader")
EVERY_S = 60.0
_LOOK_S = 1.0
_VIEWED_S = 30.0
"""Time after a request for the page during which it counts as viewed."""
_CHILD_S = 120.0
_MOST_ALERTS = 8
_READING = "The stage ledger is being read."
_UNREAD = Attention("warning", "Open alerts are not known.", "The reader's log has the cause.")


@contextmanager
def run_status_sidecar() -> "Iterator[MakeExtension]":
    """Run the sidecar for the block; yields the maker of a worker's extension."""
    with tempfile.TemporaryDirectory(prefix="forecache-status-") as place:
        stop = threading.Event()
        folder = Path(place)
        thread = threading.Thread(target=_read_while_viewed, args=(folder, stop), name="forecache-status", daemon=True)
        thread.start()
        try:
            yield partial(ProjectStatusExtension, folder)
        finally:
            stop.set()
            thread.join(_LOOK_S + 1.0)


class ProjectStatusExtension:
    """The extension of one worker: members `nights`, `streams` and `alerts` of the status, and no paths.

    Args:
        folder: The folder with the file that the main process writes, and the one that marks the page as viewed.
    """

    def __init__(self, folder: Path, context: "ExtensionContext") -> None:
        self._file, self._viewed = folder / "project.json", folder / "viewed"
        self._stamp = 0
        self._part: dict[str, Any] = _empty_part(_READING, unread=False)

    def open(self, loop: "asyncio.AbstractEventLoop") -> None: ...

    def poll_changes(self, run_on_loop: "RunOnLoop") -> None:
        with suppress(OSError, ValueError):
            stamp = self._file.stat().st_mtime_ns
            if stamp != self._stamp:
                self._part = json.loads(self._file.read_bytes())
                self._stamp = stamp

    def close(self) -> None: ...

    def find_handler(self, method: str, path: str) -> "Handler | None":
        return None

    def serves_anything(self) -> bool:
        return False

    def list_served(self) -> list[dict[str, Any]]:
        return []

    def not_ready_reason(self) -> str:
        return ""

    def openapi_paths(self) -> dict[str, Any]:
        return {}

    def prometheus_text(self) -> str:
        return ""

    def model_counts(self) -> "Mapping[str, ModelCounts]":
        return {}

    def status(self, history: "History") -> tuple[dict[str, Any], list[Attention]]:
        with suppress(OSError):
            self._viewed.touch()
        nights = dict(self._part["nights"])
        nights["rows"] = [row | {"ended_s_ago": _ago_s(row["ended_s_ago"], self._part)} for row in nights["rows"]]
        alerts = self._part["alerts"]
        unread = [_UNREAD] if self._part["alerts_unread"] else []
        shown = {"nights": nights, "streams": self._part["streams"], "alerts": alerts}
        return shown, [*attention_of(alerts), *unread]


def _empty_part(why: str, *, unread: bool) -> dict[str, Any]:
    """The part as `forecache.plugins.status.__main__` prints it, without content."""
    nights = {"rows": [], "why": why}
    return {"nights": nights, "streams": [], "alerts": [], "alerts_unread": unread, "read_at": time.time()}


def _ago_s(then_s: int, part: Mapping[str, Any]) -> int:
    return then_s + max(0, int(time.time() - part["read_at"]))


def attention_of(alerts: list[dict[str, Any]]) -> list[Attention]:
    """Lines of attention for open alerts: the first ones, and the number of the others."""
    found = [
        Attention(
            "critical" if each["severity"] == "critical" else "warning",
            each["summary"],
            f"Open alert ({each['title'].lower()}) since {each['since']} UTC.",
        )
        for each in alerts[:_MOST_ALERTS]
    ]
    if len(alerts) > _MOST_ALERTS:
        left = len(alerts) - _MOST_ALERTS
        found.append(Attention("warning", f"{left} more alerts are open.", "`forecache alerts` lists them."))
    return found


def _read_while_viewed(folder: Path, stop: threading.Event) -> None:
    read_at = float("-inf")
    while not stop.wait(_LOOK_S):
        if time.monotonic() - read_at < EVERY_S or not _is_viewed(folder):
            continue
        read_at = time.monotonic()
        command = [sys.executable, "-m", "forecache.plugins.status"]
        try:
            # The settings are those of this process's environment.
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_CHILD_S, check=True
            )
            write_durably(folder / "project.json", json.dumps(json.loads(done.stdout)))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            logger.error("The nights of the status page could not be read: %s", error)
            failed = _empty_part("The stage ledger could not be read; the reader's log has the cause.", unread=True)
            with suppress(OSError):
                write_durably(folder / "project.json", json.dumps(failed))


def _is_viewed(folder: Path) -> bool:
    try:
        return time.time() - os.stat(folder / "viewed").st_mtime < _VIEWED_S
    except OSError:
        return False
