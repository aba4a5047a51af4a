"""Opening a version or release beside requests: the thread that answers them only puts the new one in its place."""

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import recorded_reader
from reader_support import RunningReader, churn_rows, running_reader, served, write_version
from realtime_support import write_views
from release_support import a_request, make_release
from waiting import eventually

from forecache.base.settings import Settings
from forecache.serve.store import Store

OPENING = {
    "damage.open_verified", "snapshot.__init__", "snapshot.warm", "mapping.__init__", "mapping.close",
    "mapping.populate_page_tables", "verify.verify_file", "manifest.manifest_from_json", "describe.encode_history",
    "live_answers.answers_of", "load.load_release", "load.release_from_parts", "release_code.function",
    "in_loop.warm_and_measure_s", "served_release.serve_release",
}  # fmt: skip
"""Functions of an opening, each of which would keep requests waiting."""
MOST_S = 0.1
"""CPU time of a swap, far above what it takes; an opening of these small versions alone takes a tenth of it."""


def release_of(reader: RunningReader) -> int | None:
    answer = httpx.post(f"{reader.url}/v1/ranking", content=a_request()).json()
    return answer["release"] if answer.get("answered_by") == "model" else None


def test_nothing_of_an_opening_runs_on_the_thread_that_answers(settings: Settings, tmp_path: Path) -> None:
    write_views(settings)
    write_version(settings.store_path, "churn", churn_rows(500))
    make_release(settings, runtime="onnx", runs="loop")
    record = tmp_path / "calls.json"

    def recorded() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(record.read_text())
        return found

    within = [sys.executable, recorded_reader.__file__, str(record)]
    with running_reader(settings, within=within, reader_workers=1) as reader:
        assert eventually(lambda: (served(reader), release_of(reader)) == (1, 1))
        for number in (2, 3, 4):
            write_version(settings.store_path, "churn", churn_rows(500, shift=float(number)))
            assert eventually(lambda number=number: served(reader) == number)
            make_release(settings, runtime="onnx", runs="loop", version=number)
            assert eventually(lambda number=number: release_of(reader) == number)
        store = Store(settings.store_path / "churn")
        assert eventually(lambda: [number for number in range(1, 5) if "open" in store.state(number)] == [4])
        write_version(settings.store_path, "churn", churn_rows(500))  # after which all before is on record
        assert eventually(lambda: served(reader) == 5 and len(recorded()["actions_s"]) >= 9)
        found = recorded()
    others, answering = set(found["others"]), set(found["answering"])
    assert others >= OPENING
    assert {"app.handle", "follow.install"} <= answering
    assert OPENING & answering == set()
    assert max(found["actions_s"]) < MOST_S
