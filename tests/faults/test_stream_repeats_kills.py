"""A process that is killed while it writes ids of events into files: no event is lost, and no repeat becomes a row."""

import os
import random
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest
from stream_sample import EmptyNight, a_stream, messages, payment, table_rows
from warm import start

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import ids_step, stream_step
from forecache.declare import Stream, Table
from forecache.kit.delta.log import open_if_exists
from forecache.stream.dedup.deduplicator import Deduplicator
from forecache.stream.engine.restore_state import load_ids, open_rows, rebuild_state
from forecache.stream.step import StreamStep
from forecache.stream.table.schema import QUARANTINE
from forecache.stream.table.writer import CommitBatch, StreamWriter

pytestmark = pytest.mark.faults
_DICE = random.Random(7)
NUMBERS = [number if _DICE.random() < 0.7 else _DICE.randrange(number + 1) for number in range(900)]
"""Of the payments in the topic: three of ten were sent before."""
BATCH, IN_MEMORY = 10, 20


def the_stream() -> Stream:
    return a_stream(answers=None, to=(Table(),))


def take_in(home: Path, upto: int, step: str = "", times: int = 0) -> None:
    """Take in what is not committed of the first messages, and die at a step, when it comes for the `times`th time."""
    left = times

    def die(name: str) -> None:
        nonlocal left
        left -= name == step
        if step and not left:
            os.kill(os.getpid(), signal.SIGKILL)

    ids_step.on_step = stream_step.on_step = die
    settings, stream = load_settings(home=home), the_stream()
    answering = StreamStep(settings, stream, bases=lambda view: EmptyNight())
    answering.repeats = Deduplicator(stream.source.unique, stream.late_days, in_memory=IN_MEMORY)
    with closing(answering.repeats):
        rebuild_state(settings, stream, answering)
        writer = StreamWriter(settings, stream)
        for at in range(writer.offsets.get(0, 0), upto, BATCH):
            part = NUMBERS[at : min(at + BATCH, upto)]
            answered = answering.run(messages([payment(number) for number in part], first=at))
            version = writer.write(CommitBatch(answered.rows, QUARANTINE.empty_table(), {0: at + len(part)}))
            answering.repeats.confirm_commit(answered.rows, version)


def numbers_in(settings: Settings) -> list[int]:
    return [row["payment_id"] for row in table_rows(settings, the_stream().table)]


def test_ids_are_known_again_wherever_the_process_is_killed(settings: Settings) -> None:
    upto = 0
    for step, times in (
        ("rows committed", 12),  # its ids are in the table alone
        ("ids written", 2),  # a file that no list names
        ("list saved", 3),
        ("ids merged", 1),  # files and what they were merged into, with the list of before
        ("rows committed", 1),
        ("list saved", 4),
    ):
        upto += 250
        process = start(take_in, settings.home_path, min(upto, len(NUMBERS)), step, times)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, f"{step} did not come {times} times"
        seen = numbers_in(settings)
        assert seen == list(dict.fromkeys(NUMBERS))[: len(seen)]
    take_in(settings.home_path, len(NUMBERS))
    assert numbers_in(settings) == list(dict.fromkeys(NUMBERS))
    with closing(Deduplicator(the_stream().source.unique, the_stream().late_days)) as known:
        table = open_rows(settings, the_stream())
        assert load_ids(settings, the_stream(), known, table) == 0, "the files hold what the table holds"
        judge = StreamStep(settings, the_stream(), bases=lambda view: EmptyNight()).judge
        assert known.find_new(judge(messages([payment(number) for number in NUMBERS])).events) == []


def test_events_of_a_table_that_was_restored_from_a_copy_are_taken_in_again(settings: Settings) -> None:
    take_in(settings.home_path, 100)
    table = Path(open_if_exists(settings, the_stream().table).table_uri.removeprefix("file://"))
    copy = settings.home_path / "copy"
    shutil.copytree(table, copy)
    take_in(settings.home_path, 250)
    shutil.rmtree(table)
    shutil.copytree(copy, table)
    assert len(numbers_in(settings)) == len(set(NUMBERS[:100]))
    take_in(settings.home_path, 400)
    assert numbers_in(settings) == list(dict.fromkeys(NUMBERS[:400]))
    shutil.rmtree(table)
    take_in(settings.home_path, 400)
    assert numbers_in(settings) == list(dict.fromkeys(NUMBERS[:400]))
