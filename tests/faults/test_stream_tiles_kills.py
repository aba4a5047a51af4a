"""A stream that is killed while it writes its tiles into their file starts with what all rows give."""

import random
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from dying import dies_at
from stream_sample import DAY
from tile_machine import Machine, from_rows, payments_stream, random_payments
from warm import start

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import stream_step, tiles_step
from forecache.stream.engine.restore_state import FILE
from forecache.stream.tiles import saver

pytestmark = pytest.mark.faults
STREAM, NIGHT = payments_stream(), DAY - timedelta(days=1)
VALUES = random_payments(400, random.Random(9))


def take_in(home: Path, upto: int, step: str, times: int) -> None:
    """Take in what is not committed of the first events, and die at a step, when it comes for the `times`th time."""
    saver._SHARE = 0
    tiles_step.on_step = stream_step.on_step = dies_at(step, times)
    machine = Machine(load_settings(home=home), STREAM, VALUES, as_of=NIGHT, commits=1)
    machine.take_in(upto, count=9)
    machine.stop()


def test_a_start_has_what_all_rows_give_wherever_the_process_was_killed(settings: Settings) -> None:
    upto, reads = 0, list[float]()
    folder = settings.home_path / "streams" / STREAM.name / "tiles"
    for step, times in (
        ("tiles read", 1),  # there is no file yet
        ("tiles written", 1),
        ("tiles replaced", 1),
        ("tiles read", 2),
        ("tiles written", 2),  # whole, beside the one of before
        ("tiles replaced", 2),
        ("rows committed", 3),  # its tiles are in the table alone
        ("tiles written", 3),
    ):
        upto += 45
        process = start(take_in, settings.home_path, upto, step, times)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, f"{step} did not come {times} times"
        is_half_written = len(list(folder.iterdir())) > (folder / FILE).exists()
        assert is_half_written or not step.startswith("tiles") or step == "tiles replaced"
        machine = Machine(settings, STREAM, VALUES, as_of=NIGHT, commits=10**6)
        assert machine.held() == from_rows(settings, STREAM, NIGHT)
        assert set(folder.iterdir()) <= {folder / FILE}, "what a killed process left is removed"
        reads.append(machine.read / machine.next)
        machine.close()
    assert min(reads[:2]) > 0.6, "most rows are of days that count"
    assert max(reads[2:]) < 0.5, "a file was there, and it was used"
