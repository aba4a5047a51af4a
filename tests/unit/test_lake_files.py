"""What lies in a lake's folders, while others write there."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as fs

from forecache.lake.delta.files import list_entries

_COMES_AND_GOES = """
import os, sys
while True:
    os.mkdir(sys.argv[1])
    os.rmdir(sys.argv[1])
"""


@contextmanager
def coming_and_going(folder: Path) -> Iterator[None]:
    """Another process makes the folder and removes it, again and again."""
    process = subprocess.Popen([sys.executable, "-c", _COMES_AND_GOES, str(folder)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert list_entries(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "none") == []


def test_a_folder_that_another_makes_while_it_is_listed_holds_nothing_yet(tmp_path: Path) -> None:
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    selector = fs.FileSelector("night", allow_not_found=True)
    failed = listed = 0
    with coming_and_going(tmp_path / "night"):
        while failed < 5:  # so often that a listing without care would be seen to fail
            listed += 1
            try:
                filesystem.get_file_info(selector)
            except FileNotFoundError:
                failed += 1
        for _ in range(2 * listed):
            assert list_entries(filesystem, "night") == []
