"""Two ingestions of one source on one machine: the second waits, and then looks at what is there by then."""

import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

from second_process import running

from forecache.base.settings import load_settings
from forecache.declare import Column, Source
from forecache.lake.ingest.ingest import ingest

SOURCE = Source("orders", (Column("customer_id", "string"), Column("at", "date")), "at", start=date(2026, 1, 1))

_LANDS_ANEW = """
import sys, time
from datetime import date, datetime, timezone
from pathlib import Path
from test_ingest_turns import SOURCE
from forecache.lake.ingest.ingested_files import IngestedFile, record_files
from forecache.lake.ingest.landing import list_landing, read_checksum
from forecache.lake.stage_runner import hold_table_lock
from forecache.base.results import no_progress
from forecache.base.settings import load_settings
settings, file, waits = load_settings(home=sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])

def enter():
    [found] = list_landing(settings, SOURCE)
    checksum, now = read_checksum(settings, SOURCE, found.name), datetime.now(timezone.utc)
    row = IngestedFile("orders", found.name, found.day, found.size_bytes, found.modified_at, checksum, 1, 1, 0, None, 0,
                       now, "", "")
    record_files(settings, [row])

enter()
with hold_table_lock(settings, SOURCE.raw_table, "", no_progress):
    print(flush=True)
    while not waits.exists():
        time.sleep(0.005)
    file.write_text("customer_id,at\\nb,2026-01-01\\nc,2026-01-01\\n")
    enter()
"""


def test_a_run_that_waited_takes_what_the_other_one_landed_anew_for_ingested(tmp_path: Path, monkeypatch: Any) -> None:
    settings = load_settings(home=tmp_path / "home")
    file = Path(settings.landing_uri, "orders", "2026-01-01.csv")
    file.parent.mkdir(parents=True)
    file.write_text("customer_id,at\na,2026-01-01\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))

    def told(message: str, _: float | None) -> None:
        if message.startswith("waiting for process"):
            (tmp_path / "waits").touch()

    with running(_LANDS_ANEW, settings.home_path, file, tmp_path / "waits"):
        result = ingest(settings, SOURCE, progress=told)
    assert (result.skipped, result.rows) == (True, 1)
