"""Receivers of events: a file of JSON lines, or a server that takes OpenLineage's events over HTTP.

The transports of OpenLineage's client (version 1.54) do not keep what `docs/lineage.md` promises. Measured: the one for
HTTP held up a stage for 9 s if the server answered 503, and for 39 s if it did not answer; it followed a redirect by a
GET, so that an event of which nothing had arrived counted as taken; its errors name the URL, which may be a secret, and
not what the server said. The one for files left half an event on a full disk, and does not sync.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from forecache.base.files import lock
from forecache.base.settings import Settings
from forecache.plugins.posting import PostFailure, post_json

_TIMEOUT_S = 5.0


class Receiver(Protocol):
    """Takes events.

    Attributes:
        name: Name of its cursor file.
    """

    name: str

    def send(self, events: Sequence[Mapping[str, Any]]) -> PostFailure | None:
        """Send the events of one run, in order; None if all were taken."""


class EventFile:
    """Appends events to a file, those of a run in one write."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, events: Sequence[Mapping[str, Any]]) -> PostFailure | None:
        lines = "".join(json.dumps(event, ensure_ascii=False, default=str) + "\n" for event in events)
        content = lines.encode(errors="replace")
        path = self._path.expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with lock(path.with_name(f".{path.name}.lock")):
                _append(path, content)
        except OSError as error:
            return PostFailure(f"{self._path} cannot be written: {error.strerror or error}.")
        return None


class LineageServer:
    """POSTs each event to `/api/v1/lineage`, as OpenLineage's clients do."""

    name = "server"

    def __init__(self, url: str, api_key: str) -> None:
        self._url, self._api_key = f"{url.rstrip('/')}/api/v1/lineage", api_key

    def send(self, events: Sequence[Mapping[str, Any]]) -> PostFailure | None:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        for event in events:
            failed = post_json(self._url, event, headers=headers, timeout_s=_TIMEOUT_S)
            if failed is not None:
                return failed
        return None


def configured_receivers(settings: Settings) -> list[Receiver]:
    """The receivers that the settings name."""
    found: list[Receiver] = []
    if settings.openlineage_file:
        found.append(EventFile(Path(settings.openlineage_file)))
    if settings.openlineage_url:
        found.append(LineageServer(settings.openlineage_url, settings.openlineage_api_key))
    return found


def _append(path: Path, content: bytes) -> None:
    """Append all or nothing; an incomplete last line, which a power cut left, is ended first."""
    # Without a buffer: what is left in one is written when the file is closed, after the truncation.
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            content = b"\n" + content
        try:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise
