"""Answers requests by the engine, in process, and logs them as a worker does: what the section parity replays.

python -m _operate.answer_job HOME COUNT SEED KEYS
"""

import json
import sys
import time
from pathlib import Path
from time import perf_counter_ns
from typing import Any, cast

from _realtime import case

from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.in_loop import DirectPath
from forecache.realtime.answer.served_release import serve_release
from forecache.realtime.deadline import RequestClock
from forecache.realtime.log.answer_log import AnswerLog
from forecache.realtime.log.spool_writer import LogWriter
from forecache.realtime.metrics import LogCounters
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.load import load_release
from forecache.realtime.request.request_answer import StageTimes
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import open_store

LOGGED = "logged"
_BODIES = 20_000
_MOST_WAITING = 1_000
_SPOOL_BYTES = 1 << 36
_LATE_EVERY = 50
"""One answer of so many has no time for the model."""


def answer(settings: Settings, count: int, seed: int, keys: int) -> dict[str, int]:
    """Log so many answers of the current release over the served views; how many rows were lost."""
    folder = open_releases(settings, LOGGED)
    number = read_pointer(folder).current
    assert number is not None
    loaded = load_release(folder, number)
    versions = {view: VersionAnswers(open_store(settings, view).snapshot()) for view in ("household", "product")}
    counters = LogCounters()
    writer = LogWriter(settings, replica=f"bench:0#{seed}")
    log = AnswerLog(loaded.release, writer.channel(LOGGED, counters))
    served = serve_release(loaded, DirectPath(loaded), versions, cast(Any, None), log)
    engine = AnswerEngine(versions)
    bodies = [case.encoded(body) for body in case.bodies(min(_BODIES, count), keys, seed=seed)]
    for place in range(count):
        while counters.waiting > _MOST_WAITING:  # a reader would go on answering, and lose rows
            time.sleep(0.01)
        parsed = served.parser.parse(bodies[place % len(bodies)])
        log.assign_id(parsed)
        now = perf_counter_ns()
        clock = RequestClock(now, now + 10**12, 1e6)
        if place % _LATE_EVERY == 0:
            answered = engine.answer_by_fallback(served, parsed, clock, StageTimes(), why="deadline")
        else:
            answered = engine.answer_now(served, parsed, clock, StageTimes())
        log.add(parsed, answered, clock)
    writer.close()
    return {"logged": counters.get("spooled"), "lost": sum(counters.losses_by_reason().values())}


if __name__ == "__main__":
    home_folder, num_answers, first_seed, num_keys = sys.argv[1:]
    settings_of_job = load_settings(home=Path(home_folder), request_log_spool_bytes=_SPOOL_BYTES)
    print(json.dumps(answer(settings_of_job, int(num_answers), int(first_seed), int(num_keys))))
