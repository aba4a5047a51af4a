"""Which release answers, as a worker of the reader follows the pointers."""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from release_support import make_release

from forecache.errors import UnavailableError
from forecache.reader.processes.metrics import EXTENSION_BYTES
from forecache.realtime.answer.in_loop import InLoopPath
from forecache.realtime.models import Models
from forecache.settings import load_settings


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
    )
    before = {name for name in sys.modules if name.startswith("_forecache_release_")}
    models = Models(context, asyncio.new_event_loop())
    models.turn(lambda action: action())
    monkeypatch.setattr(Models, "_worker_path", no_process)
    path = models.served["ranking"].path
    assert isinstance(path, InLoopPath)
    path.misbehaved = "a call spun"
    models.turn(lambda action: action())
    assert "No model process was warm" in models.failures["ranking"]
    make_release(settings, runs="loop", version=2)
    models.turn(lambda action: action())
    assert models.served["ranking"].number == 2
    assert not models.failures
    models.close()
    assert {name for name in sys.modules if name.startswith("_forecache_release_")} == before
