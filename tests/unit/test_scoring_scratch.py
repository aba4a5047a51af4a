"""DuckDB's files on the disk: those of two processes in one home never meet, and those of a killed one go."""

import os
from pathlib import Path

from second_process import running

from forecache.base.settings import load_settings
from forecache.lake.query import scratch_database, scratch_folder

_SPILLS = """
import sys, time
from forecache.lake.query import scratch_database
from forecache.base.settings import load_settings
with scratch_database(load_settings(home=sys.argv[1])) as connection:
    connection.execute("SET memory_limit = '60MB'; SET threads = 1")
    connection.execute("CREATE TEMP TABLE t AS SELECT repeat(md5(i::varchar), 8) AS y FROM range(300000) t(i)")
    print(flush=True)
    time.sleep(60)
"""


def test_two_processes_spill_into_folders_of_their_own_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    with running(_SPILLS, tmp_path) as killed:
        [left] = scratch_folder(settings).iterdir()
        assert list(left.iterdir())
        with scratch_database(settings) as connection:
            row = connection.execute("SELECT current_setting('temp_directory')").fetchone()
            assert row is not None
            own = Path(row[0])
            assert own.parent == left.parent
            assert own != left
        killed.kill()
        killed.wait()
    os.utime(left, (0, 0))
    with scratch_database(settings):
        assert not left.exists()
    assert list(scratch_folder(settings).iterdir()) == []
