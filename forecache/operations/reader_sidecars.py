"""Sidecars of a reader that work on the lake: the committer of the request log, and the tailer of live layers.

Each is started once there is something to do. Nothing is started if the extra `lake` is not installed, or if the
settings leave the work to `forecache log commit` or `forecache stream tail`.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from forecache.base.settings import Settings
from forecache.kit.process.child import run_sidecar
from forecache.realtime.log.spool_files import spooled_models
from forecache.serve.store.live.layer import list_stores_with_layers


@contextmanager
def run_committer_sidecar(settings: Settings) -> Iterator[None]:
    """Run a committer of the request log during the block; at its end, commit the rest if the lake is quick."""
    if settings.request_log_committer == "off" or not _has_lake():
        yield
        return
    what = "The committer of the request log"
    with run_sidecar(["log", "commit"], what=what, is_needed=lambda: bool(spooled_models(settings.request_log_path))):
        yield


@contextmanager
def run_tailer_sidecar(settings: Settings) -> Iterator[None]:
    """Run a tailer for the live layers of this machine's stores during the block."""
    if settings.stream_tailer == "off" or not _has_lake():
        yield
        return
    with run_sidecar(
        ["stream", "tail"], what="The tailer", is_needed=lambda: bool(list_stores_with_layers(settings.store_path))
    ):
        yield


def _has_lake() -> bool:
    return importlib.util.find_spec("deltalake") is not None
