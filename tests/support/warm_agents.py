"""Trainers that start warm: forks of the server of `warm`, which has imported torch, in place of new interpreters.

A process is told what to be as `subprocess.Popen` is, and can be asked what `Popen` can. It does what the module does
that the command line names. Trainings of the test process start warm, but for those within `cold_agents` of
tests/integration/test_training_run.py and test_estimator_run.py, and two of tests/faults/test_training_kill.py.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.reduction import DupFd
from types import SimpleNamespace
from typing import Any

import pytest
from warm import processes

_MAIN = {
    "forecache.plugins.torch.agent": "forecache.plugins.torch.agent",
    "forecache.plugins.estimators": "forecache.plugins.estimators.__main__",
    "forecache.plugins.torch.join": "forecache.plugins.torch.join",
}


class WarmAgent:
    """What `Popen` is of a process that `python -m MODULE ARGUMENTS` starts."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: Any = subprocess.DEVNULL,
        stderr: Any = subprocess.DEVNULL,
        start_new_session: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        interpreter, _, module, *options = arguments
        assert (interpreter, stdout) == (sys.executable, stderr)
        self._process = processes().Process(
            target=_be,
            args=(_MAIN[module], options, dict(env), _Sent(stdout), start_new_session, [_Sent(fd) for fd in pass_fds]),
            daemon=True,
        )
        self._process.start()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("a warm agent", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()


@contextmanager
def warm_agents(*modules: str) -> Iterator[None]:
    """Have these modules start their trainers warm while the block runs."""
    warm = SimpleNamespace(**{**vars(subprocess), "Popen": WarmAgent})
    with pytest.MonkeyPatch.context() as patched:
        for module in modules:
            patched.setattr(f"{module}.subprocess", warm)
        yield


@contextmanager
def cold_agents() -> Iterator[None]:
    """Have trainings start new interpreters while the block runs, as users' do."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("forecache.models.training.process.subprocess", subprocess)
        yield


class _Sent:
    """A descriptor of this process, on its way to another one."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        if self._file == subprocess.DEVNULL:
            return _null, ()
        return _received, (DupFd(self._file if isinstance(self._file, int) else self._file.fileno()),)


def _null() -> int:
    return os.open(os.devnull, os.O_WRONLY)


def _received(descriptor: Any) -> int:
    found: int = descriptor.detach()
    return found


def _be(
    module: str, options: list[str], environment: dict[str, str], output: int, session: bool, kept: list[int]
) -> None:
    import multiprocessing

    if session:
        os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it has workers
    found = import_module(module)
    if module == "forecache.plugins.torch.join":
        found.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _Fork})  # type: ignore[attr-defined]
    sys.exit(_run(found, options, environment))


def _run(module: Any, options: list[str], environment: Mapping[str, str]) -> Any:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [path for path in environment["PYTHONPATH"].split(os.pathsep) if path not in sys.path]
    sys.argv = [module.__name__, *options]
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # read when torch was imported
    return module.main()


class _Fork:
    """The agent of a warm node, which has one thread and has done nothing, is a fork of it."""

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            try:
                os._exit(_run(import_module(_MAIN[arguments[2]]), list(arguments[3:]), env) or 0)
            finally:
                os._exit(1)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout or 3600.0)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a warm agent", timeout or 0.0)
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)
