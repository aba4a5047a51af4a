"""A move of the pointer killed after any file that it writes, then the pointer lost: what was left stays so."""

import itertools
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from pointer_moves import MOVES, move_until
from store_tables import churn, predictions, scores, write_night
from warm import start

from forecache.base.errors import CheckError
from forecache.base.settings import Settings, load_settings
from forecache.plugins.store_checks.verify_stores import verify_store
from forecache.serve.reader.versions.damage import DamagedVersions, open_newest_undamaged
from forecache.serve.store import Store, open_store, publish

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def publish_scores(settings: Settings, count: int) -> None:
    write_night(settings, predictions(scores(count)))
    publish(settings, churn())


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = load_settings(home=tmp_path_factory.mktemp("pointer") / "home")
    for count in (10, 20):
        publish_scores(settings, count)
    return settings.home_path


class Served:
    """The contents of all versions that a store served; a blocked one, or another of the same number, fails."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.contents: dict[tuple[str, int], str] = {}

    def look(self) -> int:
        with (
            self.store.snapshot() as snapshot,
            open_newest_undamaged(self.store, self.store.pointer(), None, DamagedVersions()) as read,
        ):
            manifest = snapshot.manifest
            assert read.manifest == manifest
        assert self.contents.setdefault(manifest.identity, manifest.content_hash) == manifest.content_hash
        assert manifest.version not in self.store.blocked_versions()
        return manifest.version


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after the next command"])
@pytest.mark.parametrize("move", MOVES)
def test_a_pointer_that_is_lost_after_a_kill_serves_nothing_that_was_left_and_gives_no_number_twice(
    settings: Settings, two_versions: Path, move: str, again: bool
) -> None:
    for writes in itertools.count(1):
        shutil.rmtree(settings.home_path, ignore_errors=True)
        shutil.copytree(two_versions, settings.home_path)
        store = open_store(settings, "churn")
        if move == "unpin":
            store.pin(1)
        if move == "publish":
            write_night(settings, predictions(scores(30)))
        process = start(move_until, settings.home_path, move, writes)
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        served = Served(store)
        begun = store.pointer().serving in store.blocked_versions()  # a rollback that has moved nothing yet
        if not begun:
            served.look()
        if again:
            with suppress(CheckError):  # of the rows that were rolled back
                publish(settings, churn())
            assert not [item for item in verify_store(store) if item.problem]
        before = store.pointer()
        store.layout.pointer.unlink()
        assert store.pointer() == before or begun or not again
        served.look()
        publish_scores(settings, 40)
        served.look()
        assert store.layout.pointer.read_bytes() == store.layout.pointer_copy.read_bytes()
    assert writes > 2, "the pointer and its copy at least"
