"""A process with a Spark session in which each call runs in a fork of its own, so that a kill costs no JVM.

Calls name a function `module:name` of tests/support, which is given the session and the arguments, and may kill itself
in Python wherever the JVM does nothing for it. Two workers at once have two JVMs, as two runs on one machine have. Only
forks open Delta tables: delta-rs does not work in a fork of a process that has.
"""

import json
import os
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from forecache.base.settings import PROJECT_ROOT, load_settings


class SparkWorker:
    """The process, from outside."""

    def __init__(self, home: Path, *, cores: int = 1) -> None:
        paths = os.pathsep.join([str(PROJECT_ROOT), str(Path(__file__).parent)])
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(home), str(cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def tell(self, function: str, **arguments: Any) -> None:
        """Have it call a function with the session and these arguments."""
        assert self.process.stdin is not None
        print(json.dumps([function, arguments], default=str), file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        """What the call returned; the negative number of the signal that killed it as `{"exit_code": ...}`."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the worker ended with {self.process.wait(60)}"
        return json.loads(line)

    def call(self, function: str, **arguments: Any) -> Any:
        self.tell(function, **arguments)
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=120)


def main(home: str, cores: str) -> None:
    from forecache.kit.spark.session import spark_session

    spark = spark_session(load_settings(home=home, spark_master=f"local[{cores}]", spark_driver_memory="1g"))
    for line in sys.stdin:
        name, arguments = json.loads(line)
        module, _, function = name.partition(":")
        code = _in_a_fork(lambda: getattr(import_module(module), function)(spark, **arguments))  # noqa: B023  (done now)
        if code:
            print(json.dumps({"exit_code": code}), flush=True)


def _in_a_fork(job: Any) -> int:
    """Do a job in a fork, which says what it returns; the fork's exit code, of a signal negative."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        print(json.dumps(job()), flush=True)
        os._exit(0)
    except BaseException:  # noqa: BLE001  (it must not go on as its parent)
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
