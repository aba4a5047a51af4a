"""The committer beside a reader: started once something is logged, again where it ends, and ended with the reader."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from forecache.beside import running_beside
from forecache.realtime.log.spool.files import models_in
from forecache.settings import Settings


@contextmanager
def committing_beside(settings: Settings) -> Iterator[None]:
    """Have the request log committed while the block runs, and what is left when it ends, as far as the lake is quick.

    Nothing is started where the extra `lake` is not installed, or the settings leave it to `forecache log commit`.
    """
    if settings.request_log_committer == "off" or importlib.util.find_spec("deltalake") is None:
        yield
        return
    what = "The committer of the request log"
    with running_beside(["log", "commit"], what=what, is_needed=lambda: bool(models_in(settings.request_log_path))):
        yield
