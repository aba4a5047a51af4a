"""Publishes features and swaps models at fixed times while the load runs; prints what it did as JSON.

Says READY when everything is loaded, and begins when a line comes in.
Usage: python -m _realtime.swap_job HOME MODELS FIRST_HIDDEN PUBLISHES SWAPPED SWAPS WITHIN_S NICENESS CORE
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _store.lake import Curtain
from _store.swap_job import step_back

from _realtime import case, home
from _realtime.swaps import seed_of
from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.release.folder import lock_releases, open_releases, read_files, read_release
from forecache.realtime.release.follow_lake import change_state, write_next_release
from forecache.realtime.release.format import MODEL_FILE, WARMUP_FILE
from forecache.realtime.release.lake_state import make_current
from forecache.serve.store.publishing.publish import publish


def main(
    folder: Path, models: Path, first_hidden: int, publishes: int, swapped: int, swaps: int, within_s: float
) -> list[Any]:
    settings = load_settings(home=folder)
    curtain = Curtain(settings.table_uri("features_product"), first_hidden)
    planned = [(within_s * number / publishes, "publish", number) for number in range(publishes)]
    planned += [(within_s * (number + 0.5) / swaps, "swap", number) for number in range(swaps)]
    print("READY", flush=True)
    sys.stdin.readline()
    begin, done = time.time(), []
    for moment, kind, number in sorted(planned):
        time.sleep(max(0.0, begin + moment - time.time()))
        started = time.time()
        if kind == "publish":
            curtain.reveal()
            details: dict[str, Any] = dict(publish(settings, home.rank.product).details)
        else:
            details = {"release": swap(settings, models, swapped + number + 1)}
        done.append({**details, "what": kind, "started": started, "ended": time.time()})
    return done


def swap(settings: Settings, models: Path, number: int) -> int:
    """Release the same declaration with another network; the number of the release."""
    releases = open_releases(settings, case.NETWORK)
    current = read_release(releases, read_pointer(releases).current or 0)
    files = read_files(releases.release(current.number), current.files)
    code = {name.removeprefix("code/"): content for name, content in files.items() if name.startswith("code/")}
    warmup = [text.encode() for text in json.loads(files[WARMUP_FILE])]
    assert MODEL_FILE in files
    model = case.file_of(models, case.NETWORK, seed_of(number)).read_bytes()
    changed = replace(current, inputs=f"swap {number}", number=0, files={})
    with lock_releases(releases, action="release"):
        released = write_next_release(settings, releases, changed, model=model, code=code, warmup=warmup)
        change_state(settings, releases, lambda state: make_current(state, released, releases.name))
    return released


if __name__ == "__main__":
    folder, models, *numbers, within_s, niceness, core = sys.argv[1:]
    step_back(int(niceness))
    os.sched_setaffinity(0, {int(core)})
    first_hidden, publishes, swapped, swaps = map(int, numbers)
    outcome = main(Path(folder), Path(models), first_hidden, publishes, swapped, swaps, float(within_s))
    print("RESULT " + json.dumps(outcome, default=str))
