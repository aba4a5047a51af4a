"""CPU time is given out once, also if stages are nested, and that of child processes counts."""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable

from forecache.kit.process.usage import CpuMeter, note_remote_work, own_cpu_s, peak_memory_bytes, tree_cpu_s

_BUSY = "import time\nwhile time.process_time() < {}: pass"


def alone(test: Callable[[], None]) -> Callable[[], None]:
    """Run a test in a process of its own: that of the others has a JVM and more as children, whose time counts."""

    @functools.wraps(test)
    def run() -> None:
        subprocess.run([sys.executable, __file__, test.__name__], check=True)

    return run


def use(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@alone
def test_the_time_of_an_inner_stage_is_not_in_that_of_the_outer_one() -> None:
    outer = CpuMeter()
    use(0.05)
    inner = CpuMeter()
    use(0.1)
    of_inner = inner.take_s() or 0.0
    use(0.05)
    of_outer = outer.take_s() or 0.0
    assert 0.1 <= of_inner < 0.15
    assert 0.1 <= of_outer < 0.15
    assert (outer.take_s() or 0.0) < 0.02
    assert (inner.take_s() or 0.0) < 0.02


@alone
def test_the_time_is_not_known_if_work_went_to_processes_that_are_not_seen() -> None:
    before = CpuMeter()
    note_remote_work()
    after = CpuMeter()
    use(0.05)
    assert before.take_s() is None
    assert after.take_s() is not None
    assert before.take_s() is not None


@alone
def test_the_time_of_children_counts_while_they_run_and_after_they_have_ended() -> None:
    before, peak = own_cpu_s(), peak_memory_bytes()
    with subprocess.Popen([sys.executable, "-c", _BUSY.format(0.4) + "\ninput()"], stdin=subprocess.PIPE) as child:
        while tree_cpu_s(child.pid) < 0.3:
            time.sleep(0.01)
        running = own_cpu_s() - before
        assert running >= 0.25
        assert peak_memory_bytes() > peak
        child.communicate(b"\n")
    assert own_cpu_s() - before >= 0.25
    assert abs(own_cpu_s() - tree_cpu_s(os.getpid())) < 0.1


if __name__ == "__main__":
    globals()[sys.argv[1]].__wrapped__()
