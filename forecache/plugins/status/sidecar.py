"""A sidecar of the reader that reads the project's part of the status page, as the reader itself loads no lake.

While the page is viewed, the main process of `forecache serve` starts a short process once a minute, with the lowest
priority, this module as a script. It reads the ledger and the alerts and prints them as JSON, which goes to a file that
each worker's extension reads.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.errors import UnavailableError
from forecache.base.files import write_durably
from forecache.base.plugins import is_installed, load_hook
from forecache.base.settings import load_settings
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import STATUS_PART, STATUS_VIEWS
from forecache.plugins.status.collect import Attention, StatusPart
from forecache.serve.reader.http.extension import Extension

if TYPE_CHECKING:
    from forecache.plugins.status.history import History
    from forecache.serve.reader.http.extension import ExtensionContext, MakeExtension
    from forecache.serve.reader.versions.follow import RunOnLoop

logger = logging.getLogger("forecache.reader")
_VIEWED_S = 30.0
"""Time after a request for the page during which it counts as viewed."""
_CHILD_S, _NICE = 120.0, 19
_MOST_ALERTS = 8
_READING = "The stage ledger is being read."
_UNREAD_LEDGER = "The stage ledger could not be read; the reader's log has the cause."
_UNREAD = Attention("warning", "Open alerts are not known.", "The reader's log has the cause.")


@contextmanager
def run_status_sidecar() -> "Iterator[MakeExtension]":
    """Run the sidecar for the block; yields the maker of a worker's extension."""
    with tempfile.TemporaryDirectory(prefix="forecache-status-") as place:
        folder = Path(place)
        with PeriodicThread(STATUS_VIEWS, _PartReader(folder).read_if_viewed, close_s=2.0):
            yield partial(ProjectStatusExtension, folder)


class ProjectStatusExtension(Extension, StatusPart):
    """The extension of one worker: members `nights`, `streams` and `alerts` of the status, and no paths."""

    def __init__(self, folder: Path, context: "ExtensionContext") -> None:
        self._file, self._viewed = folder / "project.json", folder / "viewed"
        self._stamp = 0
        self._part: dict[str, Any] = _empty_part(_READING, unread=False)

    def poll_changes(self, run_on_loop: "RunOnLoop") -> None:
        with suppress(OSError, ValueError):
            if (stamp := self._file.stat().st_mtime_ns) != self._stamp:
                self._part, self._stamp = json.loads(self._file.read_bytes()), stamp

    def status(self, history: "History") -> tuple[dict[str, Any], list[Attention]]:
        with suppress(OSError):
            self._viewed.touch()
        part = self._part
        since_s = max(0, int(time.time() - part["read_at"]))
        rows = [row | {"ended_s_ago": row["ended_s_ago"] + since_s} for row in part["nights"]["rows"]]
        shown = {"nights": part["nights"] | {"rows": rows}, "streams": part["streams"], "alerts": part["alerts"]}
        return shown, [*attention_of(part["alerts"]), *[_UNREAD] * part["alerts_unread"]]


def _empty_part(why: str, *, unread: bool) -> dict[str, Any]:
    """The part as `main` prints it, without content."""
    nights = {"rows": [], "why": why}
    return {"nights": nights, "streams": [], "alerts": [], "alerts_unread": unread, "read_at": time.time()}


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


class _PartReader:
    def __init__(self, folder: Path) -> None:
        self._folder, self._read_at = folder, float("-inf")

    def read_if_viewed(self) -> None:
        """Read the part if the page is viewed and the last reading was a minute ago."""
        if time.monotonic() - self._read_at < STATUS_PART.every_s or not self._is_viewed():
            return
        self._read_at = time.monotonic()
        command = [sys.executable, "-m", "forecache.plugins.status.sidecar"]
        try:
            # The settings are those of this process's environment.
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_CHILD_S, check=True
            )
            self._write(json.loads(done.stdout))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            logger.error("The runs of the status page could not be read: %s", error)
            with suppress(OSError):
                self._write(_empty_part(_UNREAD_LEDGER, unread=True))

    def _write(self, part: Mapping[str, Any]) -> None:
        write_durably(self._folder / "project.json", json.dumps(part))

    def _is_viewed(self) -> bool:
        try:
            return time.time() - os.stat(self._folder / "viewed").st_mtime < _VIEWED_S
        except OSError:
            return False


def main() -> None:
    """Print the project's part of the status as JSON."""
    os.nice(_NICE)  # answers of the reader go first
    from forecache.plugins.status.project_status import last_nights
    from forecache.stream.status import describe_stream, read_stream_statuses

    settings = load_settings()
    now = datetime.now(timezone.utc)
    try:
        alerts = load_hook("alerts", "noted_alerts")(settings) if is_installed("alerts") else []
        unread = False
    except UnavailableError as error:
        print(error, file=sys.stderr)  # the reader's log; the page shows no paths
        alerts, unread = [], True
    part = {
        "nights": last_nights(settings, now),
        # The reader itself knows which of its versions are stale.
        "alerts": [alert.describe() for alert in alerts if alert.kind != "version_stale"],
        "alerts_unread": unread,
        "streams": [describe_stream(each) for each in read_stream_statuses(settings)],
        "read_at": now.timestamp(),
    }
    json.dump(part, sys.stdout)


if __name__ == "__main__":
    main()
