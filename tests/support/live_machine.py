"""A model of the live layer as a dictionary, and the interleavings that it is compared over.

The stream is two partitions of events; an event's number is its value, so that a key has gone back where its number is
smaller than it was. What a batch makes of the events of a key is the last one's number and a half. Whatever happens,
each key must be answered with what the rule says, and no key may go back.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from live_support import LAYER, live_row, live_store
from reader_support import write_version

from forecache.kit.versioned.pointer import write_pointer
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.live_answers import NoVersion, answers_of
from forecache.serve.reader.versions.live_layers import LiveLayers, OpenLayer
from forecache.serve.store import Store
from forecache.serve.store.content_hash import content_sum
from forecache.serve.store.live.pending import PendingWriter, open_pending_writer
from forecache.serve.store.live.writer import open_live_writer

KEYS = [f"k{i}" for i in range(6)]
Offsets = dict[int, int]


def partition_of(key: str) -> int:
    return int(key[1:]) % 2


class LiveMachine(RuleBasedStateMachine):
    """Commits, publishes with cuts, rollbacks, prunings, pending puts and confirms, kills and reopenings."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        # In memory where there is such a folder: hundreds of commits an example are flushed.
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=memory)))
        self.layout = live_store(folder, layer=replace(LAYER))
        self.store = Store(self.layout.root)
        self.layers = LiveLayers()
        self.stack.callback(self.layers.close)
        self.answers: VersionAnswers | None = None
        self.number = 0
        self.log: dict[int, list[tuple[str, int]]] = {0: [], 1: []}
        self.table: list[tuple[int, dict[str, int]]] = []
        """Versions of the stream's table and the newest row of each key in each."""
        self.committed: Offsets = {0: 0, 1: 0}
        self.newest_version = 0
        self.applied = -1
        self.versions: dict[int, tuple[int, dict[str, float]]] = {}
        """By number of a published version, its cut and its content."""
        self.served = 0
        self.seen: dict[str, int] = {}
        self.writer = open_live_writer(self.layout, map_bytes=1 << 16)
        self.pending: PendingWriter | None = None
        self.visible: dict[str, tuple[int, int]] = {}
        """Pending rows of this run of the engine, or confirmed ones: number, batch."""
        self.old: dict[str, int] = {}
        self.kept_back: dict[str, tuple[int, int]] = {}
        self.high: Offsets = {}
        self.batch = self.opens = self.opened_at = 0
        self.batches: dict[int, tuple[Offsets, int | None]] = {}
        self.processed: Offsets = {}

    @initialize(event=st.booleans())
    def choose_freshness(self, event: bool) -> None:
        self.freshness = "event" if event else "commit"
        self.open_engine()

    # The stream.

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4))
    def events_arrive(self, keys: list[str]) -> None:
        for key in keys:
            self.number += 1
            self.log[partition_of(key)].append((key, self.number))

    @rule(partitions=st.sampled_from([(0,), (1,), (0, 1)]), most=st.integers(1, 3))
    def engine_computes(self, partitions: tuple[int, ...], most: int) -> None:
        rows: dict[str, int] = {}
        for partition in partitions:
            start = self.processed[partition]
            taken = self.log[partition][start : start + most]
            self.processed[partition] += len(taken)
            rows.update(taken)
        reached = self.batches.get(self.batch, ({}, None))[0]
        self.batches[self.batch] = (reached | {each: self.processed[each] for each in partitions}, None)
        if self.pending is None:
            return
        offsets = {each: self.processed[each] for each in partitions}
        self.pending.put(self.batch, [(key.encode(), live_row(0, number)) for key, number in rows.items()], offsets)
        shown = {key: (number, self.batch) for key, number in rows.items()}
        if self.high and all(self.processed[each] >= self.high[each] for each in self.high):
            # An old row that was not computed again by this run waits for what the table had when it began.
            others = 10_000 + self.opens
            self.batches[-others] = ({}, self.opened_at)
            self.visible |= {key: (number, -others) for key, number in self.old.items()}
            self.visible |= self.kept_back | shown
            self.old, self.kept_back, self.high = {}, {}, {}
            return
        self.kept_back |= {key: row for key, row in shown.items() if key in self.old}
        self.visible |= {key: row for key, row in shown.items() if key not in self.old}

    @rule(confirms=st.booleans(), gap=st.integers(1, 2))
    def engine_commits(self, confirms: bool, gap: int) -> None:
        if self.processed == self.committed:
            return
        rows: dict[str, int] = {}
        for partition, start in self.committed.items():
            rows.update(self.log[partition][start : self.processed[partition]])
        self.newest_version += gap  # a merge of small files takes a version, too
        self.table.append((self.newest_version, rows))
        self.committed = dict(self.processed)
        if self.pending is not None and not confirms:
            self.open_engine()  # killed between the commit and its confirmation
            return
        if self.pending is not None:
            self.pending.confirm(self.batch, self.newest_version)
        self.batches = {
            batch: (offsets, self.newest_version if at is None else at) for batch, (offsets, at) in self.batches.items()
        }
        self.batch += 1

    @rule()
    def engine_is_killed(self) -> None:
        self.open_engine()

    @precondition(lambda self: self.pending is not None)
    @rule()
    def engine_sweeps(self) -> None:
        assert self.pending is not None
        self.pending.remove_applied()

    def open_engine(self) -> None:
        if self.pending is not None:
            self.pending.close()
        self.processed = dict(self.committed)
        self.opens, self.opened_at = self.opens + 1, self.newest_version
        if self.freshness == "commit":
            self.batches = {}
            return
        self.pending = open_pending_writer(
            self.layout, committed=self.committed, version=self.newest_version, map_bytes=1 << 16
        )

        def passed(offsets: Offsets) -> bool:
            return all(self.committed[p] >= o for p, o in offsets.items())

        confirmed = {batch: self.newest_version if at is None else at for batch, (offsets, at) in self.batches.items()
                     if at is not None or passed(offsets)}  # fmt: skip
        left = {batch: offsets for batch, (offsets, _) in self.batches.items() if batch not in confirmed}
        self.old |= {key: number for key, (number, batch) in self.visible.items() if batch in left}
        for offsets in left.values():
            self.high = {p: max(self.high.get(p, 0), offsets.get(p, 0)) for p in {**self.high, **offsets}}
        # Batches of earlier runs get numbers of their own, below those of this one.
        renamed = {batch: -1 - place for place, batch in enumerate(sorted(confirmed, reverse=True))}
        self.visible = {
            key: (number, renamed[batch]) for key, (number, batch) in self.visible.items() if batch in renamed
        }
        self.batches = {renamed[batch]: ({}, at) for batch, at in confirmed.items()}
        if passed(self.high):
            self.batches[-1000] = ({}, self.newest_version)
            self.visible |= {key: (number, -1000) for key, number in self.old.items()}
            self.old, self.high = {}, {}
        self.kept_back, self.batch = {}, 1

    # The tailer.

    @rule(most=st.integers(1, 3))
    def tailer_applies(self, most: int) -> None:
        for version, rows in [each for each in self.table if each[0] > self.applied][:most]:
            self.writer.apply(version, [(key.encode(), live_row(version, number)) for key, number in rows.items()])
            self.applied = version

    @rule()
    def tailer_applies_again(self) -> None:
        for version, rows in self.table[:1]:
            if version <= self.applied:
                self.writer.apply(version, [(key.encode(), live_row(version, number)) for key, number in rows.items()])

    @rule()
    def tailer_is_killed(self) -> None:
        self.writer.close()
        self.writer = open_live_writer(self.layout, map_bytes=1 << 16)

    @rule(most=st.sampled_from([None, 1, 2]))
    def tailer_prunes(self, most: int | None) -> None:
        cuts = [cut for cut, _ in self.versions.values()]
        self.writer.prune(min(cuts, default=-1), most=most)

    # The store.

    @rule(back=st.integers(0, 2), batch=st.sets(st.sampled_from(KEYS)), covers=st.booleans())
    def night_is_published(self, back: int, batch: set[str], covers: bool) -> None:
        """The batch, and of the stream up to a cut that the live layer has reached what the batch has not seen.

        Args:
            covers: Whether it has seen all of it.
        """
        reached = [-1, *(version for version, _ in self.table if version <= self.applied)]
        cut = reached[max(0, len(reached) - 1 - back)]
        if self.versions:
            cut = max(cut, max(cut for cut, _ in self.versions.values()))
        number = self.store.pointer().last + 1
        streamed: dict[str, float] = {}
        for version, rows in self.table:
            if version <= cut:
                streamed |= rows
        of_batch = {key: int(streamed.get(key, 0) if covers else 0) + 0.5 for key in sorted(batch)}
        content = streamed | of_batch if covers else of_batch | streamed
        rows_of: dict[Any, Any] = {key: orjson.loads(live_row(0, value).value) for key, value in content.items()}
        write_version(self.layout.root.parent, self.layout.root.name, rows_of, cut=cut, stream="cards")
        self.versions[number] = (cut, content)
        self.serve(number)

    @precondition(lambda self: len(self.versions) > 1)
    @rule(place=st.integers(0, 5))
    def version_is_rolled_back_to(self, place: int) -> None:
        number = sorted(self.versions)[place % len(self.versions)]
        write_pointer(self.layout, self.store.pointer().advance(current=number, pinned=None))
        self.serve(number)

    @precondition(lambda self: len(self.versions) > 1)
    @rule()
    def oldest_version_is_retired(self) -> None:
        oldest = min(number for number in self.versions if number != self.served)
        self.layout.manifest(oldest).unlink()
        del self.versions[oldest]

    def serve(self, number: int) -> None:
        if self.answers is not None:
            self.answers.snapshot.close()
        self.served = number
        layer = self.layer()
        version = self.store.snapshot(number) if number else NoVersion("churn", layer.declared)
        self.answers = answers_of(version, layer)
        self.answers.refresh(0.0)

    def layer(self) -> OpenLayer:
        found = self.layers.open_layer(self.store)
        assert found is not None
        return found

    # What must hold.

    @invariant()
    def every_key_is_answered_by_the_rule(self) -> None:
        if self.answers is None:
            self.serve(0)
        assert self.answers is not None
        self.layer()  # as the watching thread does
        expected = {key: self.expected(key) for key in KEYS}
        one = {key: self.number_in(self.answers.one(key.encode())) for key in KEYS}
        assert one == expected
        body = orjson.loads(self.answers.many([key.encode() for key in KEYS])[0])
        assert {row["key"]: _number(row.get("value")) for row in body["results"]} == expected
        rows = self.answers.dated_rows([key.encode() for key in KEYS])[0]
        assert dict(zip(KEYS, map(_number, rows), strict=True)) == expected
        for key, number in expected.items():
            now = int(number or 0)
            assert now >= self.seen.get(key, 0), f"{key} went back from {self.seen[key]} to {now}"
            self.seen[key] = now

    @invariant()
    def the_content_hash_is_that_of_the_rows(self) -> None:
        assert self.writer.content_sum == content_sum(self.writer.items())

    def expected(self, key: str) -> float | None:
        if key in self.old:
            return self.old[key]
        if key in self.visible:
            number, batch = self.visible[key]
            at = self.batches[batch][1]
            if at is None or at > self.applied:
                return number
        cut, content = self.versions.get(self.served, (-1, {}))
        for version, rows in reversed(self.table):
            if version <= self.applied and key in rows:
                if version > cut:
                    return rows[key]
                break
        return content.get(key)

    @staticmethod
    def number_in(body: bytes | None) -> float | None:
        return None if body is None else _number(orjson.loads(body)["value"])

    def teardown(self) -> None:
        if self.answers is not None:
            self.answers.snapshot.close()
        if self.pending is not None:
            self.pending.close()
        self.writer.close()
        self.stack.close()


def _number(value: dict[str, Any] | None) -> float | None:
    return None if value is None else float(value["churn_probability"])


def play(*steps: tuple[Callable[..., None], dict[str, Any]], event: bool) -> None:
    """One interleaving, with the checks after each step."""
    machine = LiveMachine()
    try:
        machine.choose_freshness(event=event)
        for step, arguments in steps:
            step(machine, **arguments)
            machine.every_key_is_answered_by_the_rule()
            machine.the_content_hash_is_that_of_the_rows()
    finally:
        machine.teardown()
