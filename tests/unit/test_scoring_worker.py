"""A settled worker does not read unchanged archives again, and still sees one that changed."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib, sys, zipfile, zipimport, time, gc
archive = sys.argv[1]
def write(**modules):
    with zipfile.ZipFile(archive, "w") as made:
        for name, text in modules.items():
            made.writestr(f"{name}.py", text)
write(one="value = 1")
sys.path.insert(0, archive)
import one
reads = []
real = zipimport.zipimporter.invalidate_caches
from forecache.lake.spark import python_worker as worker
worker._read_again = lambda finder: (reads.append(finder.archive), real(finder))
worker.settle()
frozen = gc.get_freeze_count()
importlib.invalidate_caches()
importlib.invalidate_caches()
print(reads, frozen > 0)
time.sleep(0.01)
write(one="value = 1", two="value = 22222")
importlib.invalidate_caches()
import two
print(len(reads), two.value)
worker.settle()
print(gc.get_freeze_count() == frozen)
"""


def test_an_archive_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "archive.zip")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["[] True", "1 22222", "True"]
