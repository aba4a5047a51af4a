"""The processes that a reader starts for a model: the template, which forks model processes, and those.

python -m forecache.realtime.workers template CONFIG CHANNEL READER_PID
python -m forecache.realtime.workers model CONFIG CHANNEL MEMORY TEMPLATE_PID

A process that is forked from one which has imported the libraries is warm in a tenth of a second, while importing them
takes one or several. Only modules are loaded before the fork, never a model: a library that has computed something may
have started threads, which a fork would lack. If an import alone starts a thread, model processes are started as new
interpreters instead.
"""

import gc
import importlib
import os
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from forecache.kit.process.child import end_with_parent
from forecache.kit.process.wakes import TEMPLATE_REAP
from forecache.realtime.release.release_code import mark_inference_only
from forecache.realtime.workers.model_main import run_model
from forecache.realtime.workers.slot_memory import MODULE, WorkerConfig

_NICE = 5
"""Lower priority: a spinning model must not take the processor from the reader, which can answer by a fallback."""


def main(kind: str, config: str, channel: str, *rest: str) -> int:
    end_with_parent(parent=int(rest[-1]))
    mark_inference_only()
    if kind == "template":
        return run_template(WorkerConfig.from_json(config), int(channel))
    return run_model(WorkerConfig.from_json(config), int(channel), int(rest[0]))


def run_template(config: WorkerConfig, channel: int) -> int:
    """Run as the template of a release until the reader closes its end of the channel.

    The first message goes to the reader: all libraries are imported. Each message from the reader requests a model
    process and carries the descriptors of its memory and channel; the reply is its process id and a descriptor of it.
    """
    requests = socket.socket(fileno=channel)
    requests.settimeout(TEMPLATE_REAP.every_s)
    os.nice(_NICE)
    _import_libraries(config)
    gc.collect()
    gc.freeze()
    can_fork = len(os.listdir("/proc/self/task")) == 1
    requests.send(b"\0")
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            message, given, _, _ = socket.recv_fds(requests, 1, 2)
        except TimeoutError:
            continue
        if not message:
            return 0
        memory, theirs = given
        template = os.getpid()
        pid = os.fork()
        if not pid:
            requests.close()
            _become_model(config, template, memory, theirs, is_forked=can_fork)
        os.close(memory)
        os.close(theirs)
        process = os.pidfd_open(pid)
        socket.send_fds(requests, [pid.to_bytes(8, "little")], [process])
        os.close(process)


def _become_model(config: WorkerConfig, template: int, memory: int, channel: int, *, is_forked: bool) -> NoReturn:
    try:
        os.setsid()  # a process group of its own, so that processes started by a model end with it
        if not is_forked:
            os.set_inheritable(memory, True)
            os.set_inheritable(channel, True)
            rest = [config.to_json(), str(channel), str(memory), str(template)]
            os.execv(sys.executable, [sys.executable, "-m", MODULE, "model", *rest])
        end_with_parent(parent=template)
        code = run_model(config, channel, memory)
    except BaseException:  # noqa: BLE001  # no code of the template may run in its fork
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def _import_libraries(config: WorkerConfig) -> None:
    """Import the libraries that the release needs; errors are ignored here, as the model process reports them."""
    module = config.load.partition(":")[0]
    with suppress(Exception):
        loading = importlib.import_module(module)
        for name in getattr(loading, "needs", lambda folder: ())(Path(config.folder)):
            with suppress(Exception):
                importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
