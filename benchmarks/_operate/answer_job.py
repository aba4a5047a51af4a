"""Answers requests by the engine, in process, and logs them as a worker does: what the section parity replays.

python -m _operate.answer_job HOME COUNT SEED KEYS
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any, cast

from _realtime import case

from forecache.pipeline.realtime.building import Columns
from forecache.reader.versions.answers import Answers
from forecache.realtime.answer.answered import Times
from forecache.realtime.answer.engine import Engine
from forecache.realtime.deadline.clock import Clock
from forecache.realtime.log.answer_log import AnswerLog
from forecache.realtime.log.counters import LogCounters
from forecache.realtime.log.writer import LogWriter
from forecache.realtime.release.folder import open_releases, read_current
from forecache.realtime.release.load import LoadedRelease, load_release
from forecache.realtime.request.parsed import Found, ParsedRequest
from forecache.realtime.served import serve_release
from forecache.settings import Settings, load_settings
from forecache.store import open_store

LOGGED = "logged"
_BODIES = 20_000
_MOST_WAITING = 1_000
_SPOOL_BYTES = 1 << 36
_LATE_EVERY = 50
"""One answer of so many has no time for the model."""


@dataclass
class DirectPath:
    """Transform and model on this thread, without a guard: nobody waits for these answers."""

    loaded: LoadedRelease
    in_loop: bool = True
    times: Times = field(default_factory=Times)

    def score_now(self, request: ParsedRequest, found: Found, left_ns: int) -> Any:
        rows = self.loaded.builder.rows(Columns(request.length, request.columns), found.views, found.known)
        found.features = self.loaded.features_of(rows)
        return self.loaded.scores_of(found.features)

    async def score(self, request: ParsedRequest, found: Found, until: float) -> Any:
        raise AssertionError("the engine asks on this thread")

    def expected_s(self) -> float:
        return 0.0

    def close(self) -> None: ...


def answer(settings: Settings, count: int, seed: int, keys: int) -> dict[str, int]:
    """Log so many answers of the current release over the served views; how many rows were lost."""
    folder = open_releases(settings, LOGGED)
    number = read_current(folder).current
    assert number is not None
    loaded = load_release(folder, number)
    versions = {view: Answers(open_store(settings, view).snapshot()) for view in ("household", "product")}
    counters = LogCounters()
    writer = LogWriter(settings, replica=f"bench:0#{seed}")
    log = AnswerLog(loaded.release, writer.channel(LOGGED, counters))
    served = serve_release(loaded, DirectPath(loaded), versions, cast(Any, None), log)
    engine = Engine(versions)
    bodies = [case.encoded(body) for body in case.bodies(min(_BODIES, count), keys, seed=seed)]
    for place in range(count):
        while counters.waiting > _MOST_WAITING:  # a reader would go on answering, and lose rows
            time.sleep(0.01)
        parsed = served.parser.parse(bodies[place % len(bodies)])
        log.identify(parsed)
        now = perf_counter_ns()
        clock = Clock(now, now + 10**12, 1e6)
        why = "deadline" if place % _LATE_EVERY == 0 else ""
        answered = engine.answer_now(served, parsed, clock, Times(), why=why)
        log.add(parsed, answered, clock)
    writer.close()
    return {"logged": counters.get("spooled"), "lost": sum(counters.lost().values())}


if __name__ == "__main__":
    home_folder, num_answers, first_seed, num_keys = sys.argv[1:]
    settings_of_job = load_settings(home=Path(home_folder), request_log_spool_bytes=_SPOOL_BYTES)
    print(json.dumps(answer(settings_of_job, int(num_answers), int(first_seed), int(num_keys))))
