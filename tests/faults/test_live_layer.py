"""The live layer when processes are killed, forked, or the disk is full."""

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from live_support import apply_versions, live_row, live_store, rows_of
from small_disks import within_small_disk
from tailing import environment_of
from warm import die, processes, start

from forecache.serve.store.content_hash import content_sum
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.layer import LiveRow, row_of
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.live.writer import live_content_sum, open_live_writer

SUPPORT = str(Path(__file__).parents[1] / "support")


def _start(code: str, within: Sequence[str] = ()) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*within, sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _layout(tmp_path: Path) -> StoreLayout:
    return live_store(tmp_path)


def test_a_writer_that_is_killed_at_any_instant_goes_on_with_what_a_ground_truth_has(tmp_path: Path) -> None:
    layout, rng, versions = _layout(tmp_path), random.Random(7), 160
    kills, ended = 0, False
    with LiveReader(layout) as reader:
        newest = -1
        while not ended or kills < 5:
            versions += 80 * ended  # it wrote all of them while this process could not run
            ours, theirs = processes().Pipe(duplex=False)
            process = start(apply_versions, layout.root, versions, theirs)
            theirs.close()
            first = ours.recv()
            # Some versions later, at some instant within the next one: a fast machine writes all of them in a moment.
            goal = first + rng.randint(0, 10)
            while process.is_alive() and (kills >= 8 or reader.applied_version < goal):
                reader.follow()
                row = reader.get(b"k1")
                if row is not None:
                    assert row.position >= newest
                    newest = row.position
                assert reader.applied_version >= first
            time.sleep(rng.uniform(0.0, 0.004))
            kills += process.is_alive()
            die(process)
            ended = process.exitcode == 0
    with open_live_writer(layout) as writer:
        truth: dict[bytes, LiveRow] = {}
        for version in range(versions):
            truth.update(rows_of(version))
        writer.prune(-1)
        truth = {key: row for key, row in truth.items() if row.position > writer.floor}
        assert writer.applied == versions - 1
        assert {key: row_of(record) for key, record in writer.items()} == truth
        assert writer.content_sum == content_sum(writer.items()) == live_content_sum(truth.items())


def test_the_slots_of_killed_readers_are_freed_and_their_pages_used_again(tmp_path: Path) -> None:
    layout = _layout(tmp_path)
    with open_live_writer(layout) as writer:
        writer.apply(0, [(b"%d" % i, live_row(0)) for i in range(2000)])
    with environment_of(layout) as environment:
        _killed_while_reading(environment.path)
        assert environment.forget_dead_readers() == 1  # so a killed reader does leave its slot
        _killed_while_reading(environment.path)
        with open_live_writer(layout) as writer:
            writer.apply(1, [(b"0", live_row(1))])
            assert environment.forget_dead_readers() == 0
            size = environment.path.stat().st_size
            for version in range(2, 60):
                writer.apply(version, [(b"%d" % i, live_row(version)) for i in range(0, 2000, 20)])
            assert environment.path.stat().st_size < size * 3  # a transaction left open would have kept every page


def _killed_while_reading(path: Path) -> None:
    """Kill a process within a read transaction."""
    process = _start(
        "import time\nfrom pathlib import Path\nfrom forecache.serve.store.live.environment import acquire\n"
        f"environment = acquire(Path({str(path)!r}), is_durable=True)\n"
        "environment.read(lambda transaction: (print('reading', flush=True), time.sleep(60)))\n"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.kill()
    process.communicate()


def test_a_forked_process_reads_through_an_environment_of_its_own(tmp_path: Path) -> None:
    layout = _layout(tmp_path)
    code = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {SUPPORT!r})
from live_support import live_row
from forecache.serve.store import Store
from forecache.serve.store.live.environment import acquire
from forecache.serve.store.live.reader import LiveReader
layout = Store(Path({str(layout.root)!r})).layout
with LiveReader(layout) as reader:
    assert reader.get(b"a").position == 0
    path = layout.streamed_folder / "live.mdb"
    of_parent = acquire(path, is_durable=True)
    child = os.fork()
    if not child:
        ok = reader.get(b"a").position == 0 and acquire(path, is_durable=True) is not of_parent
        os._exit(0 if ok else 1)
    for _ in range(1000):
        assert reader.get(b"a").position == 0
    assert os.waitpid(child, 0)[1] == 0
    assert reader.get(b"a").position == 0
print("fine")
"""
    with open_live_writer(layout) as writer:
        writer.apply(0, [(b"a", live_row(0))])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("what", ["live", "pending"])
def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_there(tmp_path: Path, what: str) -> None:
    within = within_small_disk(tmp_path, "3m")
    writes = {
        "live": "w = open_live_writer(layout)\n    write = lambda n: w.apply(n, rows(n))",
        "pending": "w = open_pending_writer(layout, committed={0: 0}, version=0)\n"
                   "    write = lambda n: w.put(n, rows(n), {0: n})",
    }[what]  # fmt: skip
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {SUPPORT!r})
from live_support import live_row, live_store
from forecache.base.errors import UnavailableError
from forecache.serve.store.live.pending import open_pending_writer
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.live.writer import open_live_writer
layout = live_store(Path({str(tmp_path)!r}))
rows = lambda n: [(b"%d-%d" % (n, i), live_row(n, {{"x": "y" * 400}})) for i in range(100)]
def main():
    {writes}
    n = 0
    while True:
        try:
            write(n)
        except UnavailableError as error:
            print(str(error))
            break
        n += 1
    with LiveReader(layout) as reader:
        assert all(reader.get(b"%d-%d" % (v, i)) is not None for v in range(n) for i in range(100))
        assert reader.get(b"%d-0" % n) is None
    w.close()
    {writes.splitlines()[0]}
    print(n, w.entries)
main()
"""
    done = subprocess.run([*within, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told, counted = done.stdout.splitlines() or (done.stderr, "")
    assert "cannot be written" in told, done.stderr
    assert "Free space" in told
    versions, entries = map(int, counted.split())
    assert entries == versions * 100 > 0
