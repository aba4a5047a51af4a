"""The template: a process that has imported the libraries of a model, and forks model processes.

A forked process is warm in a tenth of a second, while importing the libraries takes one or several. Only modules are
loaded before the fork, never a model: a library that has computed something may have started threads, which a fork
would lack. If an import alone starts a thread, model processes are started as new interpreters instead.
"""

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from forecache.realtime.workers.model_main import run_model
from forecache.realtime.workers.worker_config import WorkerConfig

MODULE = "forecache.realtime.workers"
_REAP_EVERY_S = 1.0
_NICE = 5
"""Lower priority: a spinning model must not take the processor from the reader, which can answer by a fallback."""
_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2), PR_SET_PDEATHSIG


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends for any reason."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(0)


def run_template(orders: WorkerConfig, channel: int) -> int:
    """Run as the template of a release until the reader closes its end of the channel.

    The first message goes to the reader: all libraries are imported. Each message from the reader requests a model
    process and carries the descriptors of its memory and channel; the reply is its process id and a descriptor of it.
    """
    asked = socket.socket(fileno=channel)
    asked.settimeout(_REAP_EVERY_S)
    os.nice(_NICE)
    _import_libraries(orders)
    gc.collect()
    gc.freeze()
    alone = len(os.listdir("/proc/self/task")) == 1
    asked.send(b"\0")
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            message, given, _, _ = socket.recv_fds(asked, 1, 2)
        except TimeoutError:
            continue
        if not message:
            return 0
        memory, theirs = given
        template = os.getpid()
        pid = os.fork()
        if not pid:
            asked.close()
            _become_model(orders, template, memory, theirs, copied=alone)
        os.close(memory)
        os.close(theirs)
        process = os.pidfd_open(pid)
        socket.send_fds(asked, [pid.to_bytes(8, "little")], [process])
        os.close(process)


def _become_model(orders: WorkerConfig, template: int, memory: int, channel: int, *, copied: bool) -> NoReturn:
    try:
        os.setsid()  # a process group of its own, so that processes started by a model end with it
        if not copied:
            os.set_inheritable(memory, True)
            os.set_inheritable(channel, True)
            rest = [orders.to_json(), str(channel), str(memory), str(template)]
            os.execv(sys.executable, [sys.executable, "-m", MODULE, "model", *rest])
        end_with_parent(template)
        code = run_model(orders, channel, memory)
    except BaseException:  # noqa: BLE001  # no code of the template may run in its fork
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def _import_libraries(orders: WorkerConfig) -> None:
    """Import the libraries that the release needs; errors are ignored here, as the model process reports them."""
    module = orders.load.partition(":")[0]
    with suppress(Exception):
        loading = importlib.import_module(module)
        for name in getattr(loading, "needs", lambda folder: ())(Path(orders.folder)):
            with suppress(Exception):
                importlib.import_module(name)
