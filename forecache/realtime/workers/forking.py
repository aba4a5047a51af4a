"""The template: a process that has imported what a model needs, and copies itself into model processes.

A replacement is warm in a tenth of a second, where importing the libraries of a model takes one or several. Only
modules are loaded before the copy, never a model: a library that has computed something may have started threads,
which a copy would lack. Where an import alone starts one, the copies begin as new interpreters.
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

from forecache.realtime.workers.model import run_model
from forecache.realtime.workers.orders import Orders

MODULE = "forecache.realtime.workers"
_REAP_EVERY_S = 1.0
_NICE = 5
"""A model that spins must not take the processor from the reader, which answers without it."""
_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2), PR_SET_PDEATHSIG


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends and whatever this process does then."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(0)


def run_template(orders: Orders, channel: int) -> int:
    """Be the template of a release until the reader closes its end of the channel.

    Each message asks for a copy and brings the descriptors of its memory and channel. The answer is its process id,
    with a descriptor of the process. The first message goes to the reader: everything is imported.
    """
    asked = socket.socket(fileno=channel)
    asked.settimeout(_REAP_EVERY_S)
    os.nice(_NICE)
    _import(orders)
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


def _become_model(orders: Orders, template: int, memory: int, channel: int, *, copied: bool) -> NoReturn:
    try:
        os.setsid()  # a group of its own, so that what a model starts ends with it
        if not copied:
            os.set_inheritable(memory, True)
            os.set_inheritable(channel, True)
            rest = [orders.to_json(), str(channel), str(memory), str(template)]
            os.execv(sys.executable, [sys.executable, "-m", MODULE, "model", *rest])
        end_with(template)
        code = run_model(orders, channel, memory)
    except BaseException:  # noqa: BLE001  # nothing of the template's may run in its copy
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def _import(orders: Orders) -> None:
    """Import what loading the release will need; a fault in that is told by the process that loads it."""
    module = orders.load.partition(":")[0]
    with suppress(Exception):
        loading = importlib.import_module(module)
        for name in getattr(loading, "needs", lambda folder: ())(Path(orders.folder)):
            with suppress(Exception):
                importlib.import_module(name)
