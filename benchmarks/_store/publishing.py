"""Section publish: a full publish from a Delta table, two kinds of incremental publish, and what other stores take."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from _store import feast_peer, loads, rows
from _store.lake import Lake
from _store.processes import BenchmarkError, watch_memory
from _store.progress import say
from _store.publish_job import publish_in_child
from _store.sizes import Sizes
from forecache.serve.store import open_store

FEAST_VARIANTS = {
    "default": {"batch_rows": None, "dedup": True},
    "batches of 10,000, skip_dedup": {"batch_rows": 10_000, "dedup": False},
}


def home_of(work: Path, sizes: Sizes) -> Path:
    return work / f"big-{sizes.big_keys}"


class Publishing:
    """Keeps the lake from pass to pass; every pass starts from an empty store."""

    def __init__(self, work: Path, sizes: Sizes) -> None:
        self.work, self.sizes = work, sizes
        self.lake = Lake(home_of(work, sizes), sizes.big_keys)
        self._written = False

    def measure(self, number: int) -> dict[str, Any]:
        lake, sizes = self.lake, self.sizes
        rng = np.random.default_rng(number)
        changed = int(sizes.big_keys * sizes.changed_share)
        if not self._written:
            say(f"publish: writing a Delta table of {sizes.big_keys:,} rows")
            lake.create()
            self._written = True
        shutil.rmtree(lake.settings.store_path, ignore_errors=True)
        found: dict[str, Any] = {"keys": sizes.big_keys, "changed": changed, "memory": []}
        found["full"] = self._publish(f"pass {number}: full publish", full=True)
        self.check(rng, np.array([], int))
        say(f"pass {number}: writing the next night, {changed:,} keys differ")
        picked = lake.next_night(changed, rng)
        found["new night"] = self._publish(f"pass {number}: incremental publish of the new night")
        self.check(rng, picked)
        say(f"pass {number}: scoring {changed:,} keys again (MERGE)")
        picked = lake.rescore(changed, rng)
        found["rescored"] = self._publish(f"pass {number}: incremental publish of the rescored keys")
        self.check(rng, picked)
        if number == 1:
            found["memory"] = self._memory(sizes.memory_keys, rng)
        found["feast"] = {
            name: [self._feast(number, name, count) for count in sizes.feast_rows] for name in FEAST_VARIANTS
        }
        found["loads"] = loads.measure(self.work, sizes.load_rows)
        return found

    def _publish(self, what: str, *, full: bool = False) -> dict[str, Any]:
        return self._publish_of(self.lake, what, full=full)

    def _memory(self, num_keys: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Publishes of another number of keys in each state of the table, for what they need of memory."""
        lake, changed = Lake(self.work / f"memory-{num_keys}", num_keys), int(num_keys * self.sizes.changed_share)
        say(f"publish: writing a Delta table of {num_keys:,} rows")
        lake.create()
        found = [("full", self._publish_of(lake, f"full publish of {num_keys:,} keys", full=True))]
        lake.next_night(changed, rng)
        found.append(("new night", self._publish_of(lake, f"a new night of {num_keys:,} keys", full=False)))
        lake.rescore(changed, rng)
        found.append(("rescored", self._publish_of(lake, f"{changed:,} keys scored again", full=False)))
        found.append(("full after MERGE", self._publish_of(lake, f"full publish of {num_keys:,} keys", full=True)))
        shutil.rmtree(lake.home)
        return [{"keys": num_keys, "state": state, **each} for state, each in found]

    @staticmethod
    def _publish_of(lake: Lake, what: str, *, full: bool) -> dict[str, Any]:
        say(what)
        with watch_memory() as peak:
            started = time.perf_counter()
            outcome = publish_in_child(lake.home, full=full)
            process_s = time.perf_counter() - started
        if outcome["rows"] != lake.num_keys or not outcome["verified"]:
            raise BenchmarkError(f"{what} published {outcome['rows']:,} rows, verified: {outcome['verified']}.")
        kept = (
            "seconds",
            "kind",
            "version",
            "changed",
            "removed",
            "segments",
            "size_bytes",
            "changes_from",
            "why_full",
        )
        return {
            **{name: outcome[name] for name in kept if name in outcome},
            "process_s": process_s,
            "high_water_bytes": peak.high_water,
            "resident_bytes": peak.resident,
            "anonymous_bytes": peak.anonymous,
            "processes": peak.processes,
        }

    def check(self, rng: np.random.Generator, picked: np.ndarray) -> None:
        """Compare what the store answers about random keys, and about changed ones, with the source."""
        lake, count = self.lake, self.sizes.checked_keys
        chosen = [*rng.integers(0, lake.num_keys, count).tolist(), *picked[:count].tolist()]
        with open_store(lake.settings, rows.NAME).snapshot() as snapshot:
            for index in chosen:
                value = snapshot.get(rows.key_text(index).encode())
                wanted = rows.expected(index, int(lake.stamps[index]))
                if value is None or json.loads(value) != wanted:
                    raise BenchmarkError(f"The store answers {value!r} for the key {index}, the source has {wanted}.")

    def _feast(self, number: int, variant: str, count: int) -> dict[str, Any]:
        say(f"pass {number}: feast materialize of {count:,} rows into Redis, {variant}")
        folder = self.work / f"feast-publish-{count}"
        repository = feast_peer.Repository(folder, "redis", **FEAST_VARIANTS[variant])  # type: ignore[arg-type]
        stamps = np.zeros(max(self.sizes.big_keys, count), np.uint16)
        repository.write_rows(rows.night_batches(stamps, rows.FIRST_NIGHT), rows.FIRST_NIGHT, count)
        with repository.redis():
            repository.apply()
            seconds = repository.materialize(rows.FIRST_NIGHT)
            held = repository.redis_keys()
        if held != count:
            raise BenchmarkError(f"After feast materialize Redis holds {held:,} keys, not {count:,}.")
        return {"rows": count, "seconds": seconds, "rows_per_s": count / seconds}


def ensure_published(work: Path, sizes: Sizes) -> Path:
    """A home folder whose store serves `big_keys` keys, made where the publish section has not run before."""
    lake = Lake(home_of(work, sizes), sizes.big_keys)
    current = open_store(lake.settings, rows.NAME).current()
    if current is None or current.rows != sizes.big_keys:
        say(f"publishing {sizes.big_keys:,} keys")
        lake.create()
        publish_in_child(lake.home, full=True)
    return lake.home
