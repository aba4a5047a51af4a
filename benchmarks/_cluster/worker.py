"""A process that does one `forecache` command after the other: Spark starts once on a machine, not once a night.

    python -m _cluster.worker TASK      TASK is a file outside of the machine's disk

The scheduler assigns a command by writing the file TASK. If the worker is killed, the next one finds the command
without a result and does it again.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LOOK_S = 0.3


class Task:
    """A command that is assigned to a worker, and its result."""

    def __init__(self, file: Path) -> None:
        self.file, self._result = file, file.with_suffix(".result")

    def assign(self, words: Sequence[str]) -> None:
        """Assign the words of a `forecache` command; the one before has to have ended."""
        _write(self.file, {"number": self._read(self.file).get("number", 0) + 1, "words": list(words)})

    @property
    def exit_code(self) -> int | None:
        """Exit code of the command; None while it is not done."""
        result = self._read(self._result)
        return result["code"] if result.get("number") == self._read(self.file).get("number", 0) else None

    def work(self) -> None:
        """Do what is assigned, for ever."""
        from forecache.cli.main import main

        while True:
            task = self._read(self.file)
            if task and self.exit_code is None:
                _write(self._result, {"number": task["number"], "code": main(task["words"])})
            time.sleep(_LOOK_S)

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        return json.loads(file.read_text()) if file.exists() else {}


def _write(file: Path, content: object) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, file)


if __name__ == "__main__":
    Task(Path(sys.argv[1])).work()
