"""The committer beside a reader: started once something is logged, again where it ends, and ended with the reader."""

import importlib.util
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from forecache.realtime.log.spool.files import models_in
from forecache.settings import Settings

logger = logging.getLogger("forecache.realtime")
_LOOK_S = 1.0
_AGAIN_S = 5.0
_LAST_S = 5.0


@contextmanager
def committing_beside(settings: Settings) -> Iterator[None]:
    """Have the request log committed while the block runs, and what is left when it ends, as far as the lake is quick.

    The process is another one, since a lake that hangs must not take time from answers. Nothing is started where the
    extra `lake` is not installed, or the settings leave it to `forecache log commit`.
    """
    if settings.request_log_committer == "off" or importlib.util.find_spec("deltalake") is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_keep_running, args=(settings, stop), name="forecache-committer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_LAST_S + 2.0)


def _keep_running(settings: Settings, stop: threading.Event) -> None:
    while not models_in(settings.request_log_path):
        if stop.wait(_LOOK_S):
            return
    while not stop.is_set():
        # It ends by itself once its standard input does, so also when this process is killed.
        command = [sys.executable, "-m", "forecache.cli.main", "log", "commit", "--until-input-ends"]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:  # no memory, or too many processes, for a while
            logger.error("The committer of the request log could not be started: %s", error)
            stop.wait(_AGAIN_S)
            continue
        with process:
            while process.poll() is None and not stop.wait(_LOOK_S):
                pass
            if stop.is_set():
                _end(process)
                return
        logger.error("The committer of the request log ended with the exit code %s.", process.returncode)
        stop.wait(_AGAIN_S)


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_LAST_S)
    except subprocess.TimeoutExpired:
        process.kill()  # at any moment: what it has not committed stays in the spool
