"""Modules of this package that run as processes beside and print their result as JSON."""

import json
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from _store.processes import PYTHON, BenchmarkError

_BENCHMARKS = Path(__file__).resolve().parents[1]


class Job(AbstractContextManager["Job"]):
    """A process of `python -m MODULE ARGUMENTS`, which prints READY if it says so, and RESULT with JSON at its end.

    It is killed where the block ends before it does.
    """

    def __init__(self, module: str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [str(PYTHON), "-m", module, *map(_text, arguments)],
            stdout=subprocess.PIPE, text=True, cwd=_BENCHMARKS, start_new_session=True,
            env=environment and dict(environment),
        )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait_until_ready(self) -> None:
        """
        Raises:
            BenchmarkError: It ended before it was.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "READY":
                return
        raise BenchmarkError(f"The process of {self._module} did not start; its message is above.")

    def result(self) -> dict[str, Any]:
        """What it found, when it has ended.

        Raises:
            BenchmarkError: It failed.
        """
        output, _ = self._process.communicate()
        lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
        if self._process.returncode or not lines:
            raise BenchmarkError(f"The process of {self._module} failed; its message is above.")
        found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
        return found


def _text(argument: object) -> str:
    return json.dumps(argument) if isinstance(argument, dict) else str(argument)
