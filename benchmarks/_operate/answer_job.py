"""Answers requests by the engine, in process, and logs them as a worker does: what the section parity replays.

python -m _operate.answer_job HOME COUNT SEED KEYS
"""

import json
import sys
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
from forecache.realtime.log.spool.frames import framed
from forecache.realtime.log.spool.stream import Stream
from forecache.realtime.release.folder import open_releases, read_current
from forecache.realtime.release.load import LoadedRelease, load_release
from forecache.realtime.request.parsed import Found, ParsedRequest
from forecache.realtime.served import serve_release
from forecache.settings import Settings, load_settings
from forecache.store import open_store

LOGGED = "logged"
_BODIES = 20_000
_FRAMES = 256
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


class Channel:
    """What an `AnswerLog` writes to: the spool, on this thread."""

    def __init__(self, stream: Stream) -> None:
        self.counters, self._stream = LogCounters(), stream
        self._frames: list[bytes] = []
        self._number = 0

    def add(self, content: bytes) -> None:
        self._frames.append(framed(content, self._number))
        self._number += 1
        if len(self._frames) == _FRAMES:
            self.flush()

    def flush(self) -> None:
        first = self._number - len(self._frames)
        if self._frames and self._stream.write(self._frames, first) < len(self._frames):
            raise OSError("the disk takes no more")
        self._stream.tend()
        self._frames = []


def answer(settings: Settings, count: int, seed: int, keys: int) -> dict[str, int]:
    """Log so many answers of the current release over the served views; how many rows were lost."""
    folder = open_releases(settings, LOGGED)
    number = read_current(folder).current
    assert number is not None
    loaded = load_release(folder, number)
    versions = {view: Answers(open_store(settings, view).snapshot()) for view in ("household", "product")}
    stream = Stream(settings.request_log_path / LOGGED, replica=f"bench:0#{seed}", most_age_s=3600.0)
    channel = Channel(stream)
    log = AnswerLog(loaded.release, cast(Any, channel))
    served = serve_release(loaded, DirectPath(loaded), versions, cast(Any, None), log)
    engine = Engine(versions)
    bodies = [case.encoded(body) for body in case.bodies(min(_BODIES, count), keys, seed=seed)]
    for place in range(count):
        parsed = served.parser.parse(bodies[place % len(bodies)])
        log.identify(parsed)
        now = perf_counter_ns()
        clock = Clock(now, now + 10**12, 1e6)
        why = "deadline" if place % _LATE_EVERY == 0 else ""
        answered = engine.answer_now(served, parsed, clock, Times(), why=why)
        log.add(parsed, answered, clock)
    channel.flush()
    stream.close()
    return {"logged": count - channel.counters.get("lost_error"), "lost": channel.counters.get("lost_error")}


if __name__ == "__main__":
    home_folder, num_answers, first_seed, num_keys = sys.argv[1:]
    print(json.dumps(answer(load_settings(home=Path(home_folder)), int(num_answers), int(first_seed), int(num_keys))))
