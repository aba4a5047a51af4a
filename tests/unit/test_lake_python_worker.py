"""A worker that has frozen what it loaded reads no archive again, and still imports from it."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import gc, importlib, sys, zipfile, zipimport
archive = sys.argv[1]
with zipfile.ZipFile(archive, "w") as made:
    made.writestr("one.py", "value = 1")
    made.writestr("two.py", "value = 2")
sys.path.insert(0, archive)
import one
reads = []
real = zipimport.zipimporter.invalidate_caches
zipimport.zipimporter.invalidate_caches = lambda finder: (reads.append(finder.archive), real(finder))
from forecache.kit.spark.python_worker import freeze_loaded
importlib.invalidate_caches()
print(len(reads))
freeze_loaded()
frozen = gc.get_freeze_count()
importlib.invalidate_caches()
print(len(reads), frozen > 0)
import two
print(two.value, one.value)
freeze_loaded()
importlib.invalidate_caches()
print(len(reads), gc.get_freeze_count() == frozen)
"""


def test_archives_are_not_read_again_and_what_is_loaded_is_frozen_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "archive.zip")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["1", "1 True", "2 1", "1 True"]
