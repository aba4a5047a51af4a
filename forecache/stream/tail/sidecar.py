"""Runs the tailer as a sidecar process of a reader: started once a store has a live layer, and restarted if it ends."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from forecache.base.settings import Settings
from forecache.kit.process.sidecar import run_sidecar
from forecache.serve.store.live.layer import list_stores_with_layers


@contextmanager
def run_tailer_sidecar(settings: Settings) -> Iterator[None]:
    """Run a tailer process for the live layers of this machine's stores while the block runs.

    Nothing is started if the extra `lake` is not installed, or if the settings leave it to `forecache stream tail`.
    """
    if settings.stream_tailer == "off" or importlib.util.find_spec("deltalake") is None:
        yield
        return
    with run_sidecar(
        ["stream", "tail"], what="The tailer", is_needed=lambda: bool(list_stores_with_layers(settings.store_path))
    ):
        yield
