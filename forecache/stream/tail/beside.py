"""The tailer beside a reader: started once a store has a live layer, again where it ends, and ended with the reader."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from forecache.beside import running_beside
from forecache.names import NAME
from forecache.settings import Settings


@contextmanager
def tailing_beside(settings: Settings) -> Iterator[None]:
    """Have the live layers of this machine's stores brought forward while the block runs.

    Nothing is started where the extra `lake` is not installed, or the settings leave it to `forecache stream tail`.
    """
    if settings.stream_tailer == "off" or importlib.util.find_spec("deltalake") is None:
        yield
        return
    with running_beside(["stream", "tail"], what="The tailer", is_needed=lambda: _has_layer(settings)):
        yield


def _has_layer(settings: Settings) -> bool:
    folder = settings.store_path
    return folder.is_dir() and any(NAME.fullmatch(path.parent.name) for path in folder.glob("*/LIVE"))
