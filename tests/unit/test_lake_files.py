"""What lies in a lake's folders, while others write there."""

from pathlib import Path

import pyarrow.fs as fs
from second_process import running

from forecache.kit.delta.files import Place, list_entries
from forecache.plugins.table_sources.delta_table import read_commits

_COMES_AND_GOES = """
import os, sys
print(flush=True)
while True:
    os.mkdir(sys.argv[1])
    os.rmdir(sys.argv[1])
"""


_CLEANS_THE_LOG = """
import os, sys
print(flush=True)
while True:
    os.rename(sys.argv[1], sys.argv[1] + ".cleaned")
    os.rename(sys.argv[1] + ".cleaned", sys.argv[1])
"""


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert list_entries(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "none") == []


def test_a_folder_that_another_makes_while_it_is_listed_holds_nothing_yet(tmp_path: Path) -> None:
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    selector = fs.FileSelector("night", allow_not_found=True)
    failed = listed = 0
    with running(_COMES_AND_GOES, tmp_path / "night"):
        while failed < 5:  # so often that a listing without care would be seen to fail
            listed += 1
            try:
                filesystem.get_file_info(selector)
            except FileNotFoundError:
                failed += 1
        for _ in range(2 * listed):
            assert list_entries(filesystem, "night") == []


def test_the_commits_of_an_existing_table_are_read_while_others_clean_its_log(tmp_path: Path) -> None:
    log = tmp_path / "_delta_log"
    log.mkdir()
    for version in range(3):
        (log / f"{version:020d}.json").write_text('{"commitInfo":{"timestamp":1782259200000,"operation":"WRITE"}}')
    with running(_CLEANS_THE_LOG, log / f"{0:020d}.json"):
        for _ in range(400):
            found = [commit.version for commit in read_commits(Place(str(tmp_path)), 2)]
            assert found in ([0, 1, 2], [1, 2])
