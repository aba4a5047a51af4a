"""The template of a release as the reader holds it: the thread that starts it, and starts it again if it ends."""

import logging
import os
import socket
import subprocess
import sys
import threading

from forecache.realtime.workers.forking import MODULE
from forecache.realtime.workers.orders import Orders
from forecache.realtime.workers.proc import is_stopped

logger = logging.getLogger("forecache.realtime")
_RETRY_S = 0.3
_WATCH_EVERY_S = 0.2
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""A model runs on one thread, and importing a library starts none."""


class Template:
    """Makes model processes.

    The kernel kills the template, and with it all its copies, when the thread that started it ends; so that thread
    lives as long as the template.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._closing, self._running, self._hung = threading.Event(), threading.Event(), threading.Event()
        self._asking = threading.Lock()
        self._channel: socket.socket | None = None
        self._thread = threading.Thread(target=self._keep, name="forecache-template", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def copy(self, memory: int, channel: int, *, timeout_s: float) -> tuple[int, int]:
        """A new model process with these descriptors: its id, and a descriptor of it.

        Raises:
            OSError: The template has ended, or does not answer in time.
        """
        self._running.wait(timeout_s)
        with self._asking:
            talks = self._channel
            if talks is None:
                raise OSError("the template of the model's processes is not running")
            talks.settimeout(timeout_s)
            try:
                socket.send_fds(talks, [b"\0"], [memory, channel])
                message, given, _, _ = socket.recv_fds(talks, 8, 1)
            except TimeoutError:
                self._hung.set()
                raise
        if not given:
            raise OSError("the template of the model's processes ended")
        return int.from_bytes(message, "little"), given[0]

    def close(self) -> None:
        """End the template and all its copies."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep(self) -> None:
        while not self._closing.is_set():
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            told = [self._orders.to_json(), str(theirs.fileno()), str(os.getpid())]
            try:
                with theirs:
                    process = subprocess.Popen(
                        [sys.executable, "-m", MODULE, "template", *told],
                        stdin=subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,  # Ctrl-C in a terminal reaches the reader alone
                        env={**_ENVIRONMENT, **os.environ},
                    )
            except OSError as error:
                logger.error("The template of a model's processes cannot be started: %s.", error)
            else:
                self._watch(process)
            with self._asking:
                self._channel.close()
                self._channel = None
            self._closing.wait(_RETRY_S)

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        self._hung.clear()
        self._running.set()
        while not (
            self._closing.wait(_WATCH_EVERY_S)
            or process.poll() is not None
            or self._hung.is_set()
            or is_stopped(process.pid)
        ):
            pass
        self._running.clear()
        if not self._closing.is_set():
            logger.error("The template %d of a model's processes is replaced.", process.pid)
        process.kill()
        process.wait()
