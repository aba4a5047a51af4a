"""The committer as a sidecar of a reader: started when something is logged, restarted if it ends before the reader."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from forecache.base.settings import Settings
from forecache.kit.process.sidecar import run_sidecar
from forecache.realtime.log.spool.spool_files import spooled_models


@contextmanager
def run_committer_sidecar(settings: Settings) -> Iterator[None]:
    """Run a committer of the request log during the block; at its end, commit the rest if the lake is quick.

    Nothing is started if the extra `lake` is not installed, or if the settings leave it to `forecache log commit`.
    """
    if settings.request_log_committer == "off" or importlib.util.find_spec("deltalake") is None:
        yield
        return
    what = "The committer of the request log"
    with run_sidecar(["log", "commit"], what=what, is_needed=lambda: bool(spooled_models(settings.request_log_path))):
        yield
