"""Which release answers, as a worker of the reader follows the pointers."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from release_support import make_release

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.pointer import read_pointer, write_pointer
from forecache.realtime.answer.in_loop import InLoopPath
from forecache.realtime.metrics import CELL
from forecache.realtime.release.folder import open_releases
from forecache.realtime.served_models import ServedModels
from forecache.serve.reader.worker_metrics import EXTENSION_BYTES


def test_a_new_release_is_served_although_the_one_before_can_neither_stay_on_the_loop_nor_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*_: object) -> NoReturn:
        raise UnavailableError("No model process was warm.")

    settings = load_settings(home=str(tmp_path))
    make_release(settings, runs="loop")
    context: Any = SimpleNamespace(
        settings=settings,
        metrics=SimpleNamespace(extension=memoryview(bytearray(EXTENSION_BYTES))),
        catalog=SimpleNamespace(answers={}),
        shedder=SimpleNamespace(limits={}),
    )
    before = {name for name in sys.modules if name.startswith("_forecache_release_")}
    models = ServedModels(context, asyncio.new_event_loop())
    models.follow_pointers(lambda action: action())
    monkeypatch.setattr(ServedModels, "_open_worker_path", no_process)
    path = models.served["ranking"].path
    assert isinstance(path, InLoopPath)
    path.misbehaved = "a call spun"
    models.follow_pointers(lambda action: action())
    assert "No model process was warm" in models.failures["ranking"]
    make_release(settings, runs="loop", version=2)
    models.follow_pointers(lambda action: action())
    assert models.served["ranking"].number == 2
    assert not models.failures
    models.close()
    assert {name for name in sys.modules if name.startswith("_forecache_release_")} == before


class Following:
    """A worker's models, with their counters."""

    def __init__(self, settings: Settings) -> None:
        context: Any = SimpleNamespace(
            settings=settings,
            metrics=SimpleNamespace(extension=memoryview(bytearray(EXTENSION_BYTES))),
            catalog=SimpleNamespace(answers={}),
            shedder=SimpleNamespace(limits={}),
        )
        self.models = ServedModels(context, asyncio.new_event_loop())
        self.folder = open_releases(settings, "ranking")

    def turn(self) -> int | None:
        """The release that answers after a turn."""
        self.models.follow_pointers(lambda action: action())
        served = self.models.served.get("ranking")
        return None if served is None else served.number

    def damage(self, number: int, name: str = "model.bin") -> None:
        (self.folder.release(number) / name).write_bytes(b"{}")

    def cell(self, name: str) -> int:
        return int(self.models.metrics.cells_of_model("ranking").cells[CELL[name]])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=str(tmp_path))


def released(settings: Settings, count: int) -> None:
    for version in range(1, count + 1):
        make_release(settings, runs="loop", version=version)


@pytest.mark.parametrize("file", ["model.bin", "release.json"])
def test_the_newest_whole_release_that_was_not_rolled_back_answers_instead_of_a_damaged_one(
    settings: Settings, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    released(settings, 5)
    following = Following(settings)
    following.damage(5, file)
    following.damage(4)
    write_pointer(following.folder, replace(read_pointer(following.folder), bad=(3,)))
    assert following.turn() == 2
    assert "damaged" in following.models.failures["ranking"]
    assert (following.cell("damaged"), following.cell("live")) == (1, 1)
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("That is a fallback: release 5 of ranking is damaged.") == 1
    following.models._follower.clear_failure("ranking")
    assert following.turn() == 2  # the same one, which is not loaded again
    assert following.cell("swaps") == 1
    make_release(settings, runs="loop", version=6)
    assert following.turn() == 6
    assert (following.models.failures, following.cell("damaged")) == ({}, 0)
    following.models.close()


def test_a_release_that_answers_stays_while_a_damaged_one_is_current(settings: Settings) -> None:
    released(settings, 2)
    following = Following(settings)
    assert following.turn() == 2
    released(settings, 1)
    following.damage(3)
    assert (following.turn(), following.cell("swaps"), following.cell("damaged")) == (2, 1, 1)
    following.models.close()


def test_what_was_rolled_back_does_not_go_on_although_the_release_before_it_is_damaged(settings: Settings) -> None:
    released(settings, 3)
    following = Following(settings)
    assert following.turn() == 3
    following.damage(2)
    write_pointer(following.folder, replace(read_pointer(following.folder), current=2, bad=(3,), generation=9))
    assert following.turn() == 1
    following.models.close()


def test_without_a_whole_release_nothing_answers(settings: Settings) -> None:
    released(settings, 2)
    following = Following(settings)
    following.damage(1)
    following.damage(2)
    assert (following.turn(), following.cell("damaged")) == (None, 1)
    assert "damaged" in following.models.failures["ranking"]
    following.models.close()
