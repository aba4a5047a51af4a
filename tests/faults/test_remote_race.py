"""Two homes that publish to one remote: stopped or killed at any step, a replica gets one of them whole."""

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_race import RULES, publish_at, settings_of
from store_services import minio_server
from store_tables import churn, predictions, scores, write_night
from waiting import wait_for
from warm import start

from forecache.base.settings import Settings
from forecache.base.steps import push_step
from forecache.kit.process.child import is_stopped
from forecache.serve.store import Store, open_remote, publish, pull
from forecache.serve.store.pointer import Pointer

pytestmark = [pytest.mark.faults, pytest.mark.slow]

_FOLDERS = itertools.count()
HOMES = {"ours": scores(300), "other": scores(200, start=500)}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio"), "races") as options:
        yield options


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The remote's URI and its options."""
    if request.param == "folder":
        return str(tmp_path / "remote"), {}
    return f"s3://races/{next(_FOLDERS)}", request.getfixturevalue("s3")


@pytest.fixture
def homes(tmp_path: Path, place: tuple[str, dict[str, str]]) -> dict[str, Settings]:
    """Two homes that have both seen version 1, and whose lakes have other rows by now."""
    found = {name: settings_of(tmp_path / name, *place) for name in HOMES}
    write_night(found["ours"], predictions(scores(100)))
    publish(found["ours"], churn(rules=RULES))
    shutil.copytree(tmp_path / "ours", tmp_path / "other")
    for name, rows in HOMES.items():
        write_night(found[name], predictions(rows))
    return found


def rows_of(store: Store) -> set[str]:
    with store.snapshot() as snapshot:
        return {key.decode() for key, _ in snapshot.items()}


def outcomes(homes: dict[str, Settings]) -> dict[str, str]:
    files = {name: settings.home_path / "outcome" for name, settings in homes.items()}
    return {name: file.read_text() for name, file in files.items() if file.exists()}


class Replicas:
    """Replicas that start with nothing, and one that follows."""

    def __init__(self, folder: Path, place: tuple[str, dict[str, str]]) -> None:
        self.folder, self.remote = folder, open_remote(*place)
        self.following = Store(folder / "following" / "churn")

    def require(self, rows: set[str]) -> int:
        """Pull into both, and compare all that they have; returns the version."""
        empty = Store(self.folder / f"empty-{next(_FOLDERS)}" / "churn")
        for replica in (empty, self.following):
            version = int(pull(replica, self.remote)["version"])
            assert rows_of(replica) == rows
        found = self.remote.read("churn/CURRENT")
        assert found is not None
        assert Pointer.from_json(found[0]).current == version
        return version


def go_on(homes: dict[str, Settings], replicas: Replicas, name: str, before: int) -> int:
    """Publish from a home, whatever it has seen of the remote."""
    publish(homes[name], churn(rules=RULES), full=True)
    version = replicas.require(set(HOMES[name]))
    assert version > before
    return version


@pytest.mark.parametrize("step", push_step.names)
def test_of_two_homes_that_publish_one_waits_and_goes_on_from_what_the_other_published(
    homes: dict[str, Settings], place: tuple[str, dict[str, str]], tmp_path: Path, step: str
) -> None:
    replicas = Replicas(tmp_path, place)
    assert replicas.require(set(scores(100))) == 1
    first = start(publish_at, homes["ours"].home_path, *place, step, str(tmp_path))
    wait_for((tmp_path / "reached-ours").exists)
    second = start(publish_at, homes["other"].home_path, *place, "")
    wait_for((homes["other"].home_path / "waits").exists)
    (tmp_path / "go").touch()
    for process in (first, second):
        process.join(120)
    assert outcomes(homes) == dict.fromkeys(homes, "published")
    assert replicas.require(set(HOMES["other"])) == 3
    go_on(homes, replicas, "ours", 3)


@pytest.mark.parametrize("step", push_step.names)
def test_a_publisher_that_stood_still_for_a_term_moves_nothing_when_it_wakes(
    homes: dict[str, Settings], place: tuple[str, dict[str, str]], tmp_path: Path, step: str
) -> None:
    replicas = Replicas(tmp_path, place)
    reached = tmp_path / "reached-ours"
    for _ in range(5):  # if the machine stands still, the lease may be lost before the step
        first = start(publish_at, homes["ours"].home_path, *place, step, str(tmp_path), "loses")
        wait_for(lambda process=first: reached.exists() or not process.is_alive())  # type: ignore[misc]
        if reached.exists():
            break
        (homes["ours"].home_path / "outcome").unlink()
    wait_for(lambda: is_stopped(first.pid))
    second = start(publish_at, homes["other"].home_path, *place, "")
    second.join(120)
    assert outcomes(homes) == {"other": "published"}
    before = replicas.require(set(HOMES["other"]))
    (tmp_path / "go").touch()
    os.kill(first.pid, signal.SIGCONT)
    first.join(120)
    # At the last step it had published already, and the other went on from there.
    assert outcomes(homes)["ours"] == ("published" if step == "pointer moved" else "LeaseLostError")
    assert replicas.require(set(HOMES["other"])) == before
    go_on(homes, replicas, "ours", go_on(homes, replicas, "other", before))


@pytest.mark.parametrize("step", push_step.names)
def test_a_publish_that_is_killed_keeps_no_home_from_publishing(
    homes: dict[str, Settings], place: tuple[str, dict[str, str]], tmp_path: Path, step: str
) -> None:
    replicas = Replicas(tmp_path, place)
    killed = start(publish_at, homes["ours"].home_path, *place, step, "", "dies")
    killed.join(120)
    assert killed.exitcode == -9
    moved = step == "pointer moved"
    before = replicas.require(set(HOMES["ours"]) if moved else set(scores(100)))
    go_on(homes, replicas, "ours", go_on(homes, replicas, "other", before))
