"""A start from the file of tiles has what a start from all rows has, to the bit."""

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import pytest
from stream_sample import messages
from tile_machine import NIGHT, STREAM, VALUES, Machine, from_rows, random_payments, took_in
from waiting import wait_for

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.log import open_if_exists
from forecache.plugins.spark_stream import sink
from forecache.stream.engine.restore_state import tile_saver
from forecache.stream.tiles import saver
from forecache.stream.tiles.tile_file import TileWriter


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", lake=str(tmp_path / "lake"))


@pytest.fixture
def slowly_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are read for a file while many events change them."""
    add = TileWriter.add

    def slow(writer: TileWriter, view: str, keys: Sequence[bytes], tiles: Sequence[bytes]) -> None:
        time.sleep(0.002)
        add(writer, view, keys, tiles)

    monkeypatch.setattr(saver, "_PART_KEYS", 4)
    monkeypatch.setattr(saver, "_SHARE", 0)
    monkeypatch.setattr(TileWriter, "add", slow)


@pytest.mark.usefixtures("slowly_read")
@pytest.mark.parametrize("seed", range(3))
def test_every_start_has_what_all_rows_give_through_late_events_midnights_nights_and_deaths(
    settings: Settings, seed: int
) -> None:
    generator = random.Random(seed)
    values, as_of = random_payments(400, generator), NIGHT
    starts = from_files = 0
    machine = Machine(settings, STREAM, values, as_of=as_of)
    while not machine.is_done:
        for _ in range(generator.randrange(20, 60)):
            some_act(machine, generator)
            if generator.random() < 0.03 and as_of < NIGHT + timedelta(days=5 * machine.next // len(values)):
                as_of += timedelta(days=1)
                machine.night = replace(machine.night, as_of=as_of)
        if generator.random() < 0.3:
            machine.stop()
            assert machine.needed() == from_rows(settings, STREAM, as_of)
        else:
            machine.close()
        if as_of > NIGHT and generator.random() < 0.1:
            as_of -= timedelta(days=1)
        machine = Machine(settings, STREAM, values, as_of=as_of)
        starts, from_files = starts + 1, from_files + (machine.read < machine.next // 3)
        assert machine.held() == from_rows(settings, STREAM, as_of)
    machine.close()
    assert starts >= 4
    assert from_files >= 2


def some_act(machine: Machine, generator: random.Random) -> None:
    act = generator.randrange(4)
    if act == 0:
        machine.answer(generator.choice((1, 5, 10)))
    elif act == 1:
        machine.hand_over()
    elif act == 2:
        machine.commit()
    else:
        machine.look()


def test_a_start_reads_the_rows_behind_the_file(settings: Settings) -> None:
    took_in(settings)
    machine = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    assert machine.read <= 10, "all but the last commit"
    machine.take_in(150)
    machine.close()
    open_if_exists(settings, STREAM.table).optimize.compact()  # as maintenance does beside it
    again = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    assert again.read <= 60, "the file of before is used"
    assert again.held() == from_rows(settings, STREAM, NIGHT)
    again.close()


def test_a_newer_night_takes_the_tiles_of_days_before_it_out_of_the_file(settings: Settings) -> None:
    took_in(settings, 200)
    later = NIGHT + timedelta(days=4)
    machine = Machine(settings, STREAM, VALUES, as_of=later)
    held = machine.held()
    machine.close()
    assert machine.read <= 10
    assert held == from_rows(settings, STREAM, later)
    assert len(held["customer"]) < len(from_rows(settings, STREAM, NIGHT)["customer"])


def test_a_second_engine_elsewhere_leaves_both_with_what_all_rows_give(settings: Settings, tmp_path: Path) -> None:
    """Each has a file of its own; the table refuses the one that was overtaken, and whose file is right still."""
    elsewhere = load_settings(home=tmp_path / "elsewhere", lake=settings.lake)
    first = Machine(settings, STREAM, VALUES, as_of=NIGHT, commits=1)
    first.take_in(50)
    second = Machine(elsewhere, STREAM, VALUES, as_of=NIGHT, commits=1)
    second.take_in(80)
    first.answer(10)
    first.hand_over()
    with pytest.raises(ConflictError):
        first.commit()
    first.close()
    second.stop()
    for home in (settings, elsewhere):
        again = Machine(home, STREAM, VALUES, as_of=NIGHT)
        assert again.read < 80
        assert again.held() == from_rows(home, STREAM, NIGHT)
        again.close()


def test_a_file_that_cannot_be_written_is_told_and_costs_only_the_start(settings: Settings) -> None:
    machine = Machine(settings, STREAM, VALUES, as_of=NIGHT, commits=1)
    folder = machine.tiles.path.parent
    shutil.rmtree(folder)
    machine.take_in(30)
    wait_for(lambda: machine.look() or machine.tiles.failure)  # type: ignore[func-returns-value]
    assert "No such file" in machine.tiles.failure
    folder.mkdir()
    machine.take_in(60)
    machine.stop()
    assert machine.tiles.failure == ""
    again = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    assert again.read == 0
    assert again.held() == from_rows(settings, STREAM, NIGHT)
    again.close()


@pytest.mark.parametrize("handed_over", ["after three looks", "before"])
def test_a_file_has_no_event_that_is_not_committed(settings: Settings, handed_over: str) -> None:
    machine = Machine(settings, STREAM, VALUES, as_of=NIGHT, commits=1)
    machine.answer(20)
    machine.hand_over()
    machine.commit()
    machine.answer(30)  # is answered, and never committed
    acts = [machine.look, machine.look, machine.look]
    acts.insert(0 if handed_over == "before" else 3, machine.hand_over)
    for act in (*acts, machine.look):
        act()
        if machine.tiles._writing is not None:
            assert machine.tiles._writing._read.wait(30)
    machine.close()
    again = Machine(settings, STREAM, VALUES, as_of=NIGHT)
    assert again.next == 20
    assert again.held() == from_rows(settings, STREAM, NIGHT)
    again.close()


def test_what_spark_s_driver_has_at_a_start_is_what_all_rows_give(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver stands on the nights of the store: on none, of which all days count."""
    monkeypatch.setattr(sink, "tile_saver", partial(tile_saver, commits=1))

    def a_sink() -> sink.SparkSink:
        return sink.SparkSink(settings, STREAM, send_bad=lambda bad: None, done=lambda answered, version: None)

    first, none = a_sink(), date(1970, 1, 1)
    for start in range(0, 60, 10):
        judged = first.step.judge(messages(VALUES[start : start + 10], first=start))
        first.process(judged.events, judged.bad, {0: start + 10})
    first.tiles.finish()
    first.tiles.close()
    first.step.repeats.close()
    again = a_sink()
    held = {name: dict(view.entries) for name, view in again.step.views.items()}
    assert held == {name: dict(view.entries) for name, view in first.step.views.items()}
    assert held == from_rows(settings, STREAM, none)
    assert again.tiles._commits < 6, "the file has the others, all but those that came while it was written last"
    again.tiles.close()
    again.step.repeats.close()
