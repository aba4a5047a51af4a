"""Extracts a source in a process of its own: to its end, until a step at which it dies, or telling its peak memory."""

import json
import os
import resource
import signal
import sys
from datetime import date, datetime, timezone

from forecache.base.settings import load_settings
from forecache.base.steps import extract_step
from forecache.declare import Column, Query, Source
from forecache.plugins.table_sources.extract import extract

NOW = datetime(2026, 1, 3, 3, tzinfo=timezone.utc)


def numbers(rows: int, width: int) -> Source:
    columns = (Column("n", "bigint"), Column("at", "timestamp"), *([Column("text", "string")] if width else []))
    text = f", repeat(md5(n::text), {width // 32}) as text" if width else ""
    sql = f"select n, cast(:start as timestamptz) as at{text} from generate_series(0, {rows - 1}) n where :end > :start"
    query = Query("shop", sql=sql, batch_rows=5_000)
    return Source("numbers", columns, "at", start=date(2026, 1, 1), extract=query)


def kill(step: str) -> None:
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    what = sys.argv[1]
    days = [date(2026, 1, 1), date(2026, 1, 2)]
    if what == "kill":
        extract_step.on_step = kill
    source = numbers(int(sys.argv[2]), 1024) if what == "memory" else numbers(50_000, 0)
    result = extract(load_settings(), source, days[:1] if what == "memory" else days, now=NOW)
    if what == "memory":
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))
    else:
        print(json.dumps([day.isoformat() for day in result.nights]))
