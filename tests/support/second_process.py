"""A second real process that does something beside what is tested."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running(program: str, *arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a Python program beside the block, which begins once the program has printed a line.

    It is killed when the block ends, unless it has ended before.
    """
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), "the program has ended before it began"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
