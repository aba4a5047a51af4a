"""Two contracts of a view side by side: each look-up gets the one that its model was trained with, until it ends."""

import http.client
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from asked_project.pipelines.payments import payments
from contracts_shop import CUSTOMERS, DAYS, land, run_nightly, true_base, true_features, write_project
from reader_support import RunningReader, running_reader
from waiting import wait_for

from forecache import Lookup, Publish
from forecache.base.errors import CheckError
from forecache.base.settings import Settings, load_settings
from forecache.base.table_names import split_kept_name
from forecache.cli.main import main
from forecache.kit.delta.tables import table_names
from forecache.operations.kept_view_process import find_other_modules
from forecache.operations.release import roll_back_release
from forecache.operations.view_definitions import (
    KeptViewTask,
    keep_definitions,
    list_contracts,
    read_definition,
    run_definition,
)
from forecache.plugins.status.project_status import project_status
from forecache.serve.store import encode_key, open_store

pytestmark = pytest.mark.slow
ANSWERS = int(os.environ.get("CONTRACT_ANSWERS", "200"))
"""Answers of each phase; 25,000 take some minutes."""
PAUSE_S = 0.01
"""Between two requests while nobody waits for answers, so that a night that runs meanwhile has the cores."""
true_base = cache(true_base)


class Asking:
    """Asks both models all the time, and compares each answer with what the sales say, to the bit."""

    def __init__(self, reader: RunningReader) -> None:
        self.url = reader.url
        self.answers: Counter[tuple[str, ...]] = Counter()
        self.wrong: list[Any] = []
        self.total = 0  # answers that were right
        self._stop, self._hurry = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        print(f"{self.total:,} answers are right to the bit, {len(self.wrong):,} are wrong.")

    def _run(self) -> None:
        rng, connection = random.Random(3), http.client.HTTPConnection(self.url.removeprefix("http://"))
        while not self._stop.is_set():
            model, customer, factor = rng.choice(("first", "second")), rng.randrange(CUSTOMERS), rng.randint(1, 16) / 4
            body = json.dumps({"customer": customer, "factor": factor})
            connection.request("POST", f"/v1/{model}", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            try:
                self._compare(model, customer, factor, answer)
            except (AssertionError, KeyError, ValueError):
                self.wrong.append(answer)
            self._hurry.wait(PAUSE_S)
        connection.close()

    def _compare(self, model: str, customer: int, factor: float, answer: dict[str, Any]) -> None:
        assert answer["answered_by"] == "model"
        definition = {1: "old", 2: "new"}[answer["release"]]
        read = {name.partition("__")[0]: date.fromisoformat(of["as_of"]) for name, of in answer["stores"].items()}
        truth = true_base(definition, customer, read["habits"], read["recent"]) * factor
        assert np.float32(answer["value"]["score"]).tobytes() == np.float32(truth).tobytes()
        kinds = sorted("kept" if split_kept_name(name) else "own" for name in answer["stores"])
        self.answers[(model, definition, *kinds)] += 1
        self.total += 1

    def wait_for(self, count: int = ANSWERS) -> None:
        """Wait for more answers, of which none may be wrong."""
        seen = self.total
        self._hurry.set()
        wait_for(lambda: self.total >= seen + count or self.wrong, seconds=600)
        self._hurry.clear()
        assert not self.wrong, (len(self.wrong), self.wrong[0])

    def settle(self, *expected: tuple[str, ...]) -> None:
        """Wait until all answers are of these kinds, as a reader loads a release some time after it is made."""

        def is_settled() -> bool:
            self.answers.clear()
            self.wait_for(50)
            return set(self.answers) == set(expected) or bool(self.wrong)

        wait_for(is_settled)
        self.wait_for()
        assert set(self.answers) == set(expected)


OLD_KEPT, NEW_KEPT = ("first", "old", "kept", "kept"), ("second", "new", "kept", "kept")
OLD, NEW = ("first", "old", "own", "own"), ("second", "new", "own", "own")


@pytest.fixture
def shop(settings: Settings, tmp_path: Path) -> Settings:
    land(settings.home_path, DAYS)
    write_project(tmp_path / "old", "old")
    write_project(tmp_path / "new", "new")
    return settings.model_copy(update={"kept_contract_days": 0.0})


def test_a_contract_of_a_function_on_sparks_frames_is_computed_by_its_own_modules(
    shop: Settings, tmp_path: Path
) -> None:
    for definition in ("old", "new"):
        write_project(tmp_path / definition, definition, on_spark=True)
    run_nightly(shop, tmp_path / "old", DAYS[5], "first")
    told = run_nightly(shop, tmp_path / "new", DAYS[6], "second")
    assert told["objections"] == []
    [name] = [each for each in kept(shop) if each.startswith("habits")]
    assert any(f"features of {name} by the engine spark" in each for each in told["said"])
    for definition, store in (("old", name), ("new", "habits")):
        with open_store(shop, store).snapshot() as snapshot:
            keys = [encode_key(snapshot.manifest.key, customer) for customer in range(CUSTOMERS)]
            found, known = snapshot.matrix(keys)
            truths = [true_features(definition, "habits", customer, DAYS[6]) for customer in range(CUSTOMERS)]
            assert known.tolist() == [truth is not None for truth in truths]
            wanted = [[truth[column] for column in snapshot.manifest.columns] for truth in truths if truth is not None]
            assert found[known].tobytes() == np.float32(wanted).tobytes()


def test_views_that_cannot_be_kept_say_why(settings: Settings) -> None:
    settings = settings.model_copy(update={"project": "asked_project"})
    view = payments.lookups[0].view

    said: list[str] = []
    for changed in (
        replace(view, publish=Publish(backend="redis")),
        replace(view, name="household_" * 5),
        replace(view, active_days=7),
    ):
        declared = replace(payments, lookups=(Lookup(changed, name="household"),))
        keep_definitions(settings, declared, progress=lambda message, share: said.append(message))
    assert [message.partition(" end with its next change: ")[2] for message in said] == [
        "It is published to Redis.",
        "Its name has more than 45 characters.",
        "payments is not declared in a module of asked_project.pipelines.",
    ]
    assert list_contracts(settings) == []
    keep_definitions(settings, payments)
    definition = read_definition(settings, "household", view.packed.contract)
    assert definition.problem == ""
    assert "asked_project/views.py" in definition.files
    # What Spark's workers import is compared with the files, and what is loaded with what was released.
    assert find_other_modules(definition.files) == []
    assert find_other_modules({**definition.files, "asked_project/views.py": "", "asked_project/none.py": ""}) == [
        "asked_project.views",
        "asked_project.none",
    ]
    other = replace(definition, contract="0123456789abcdef")
    with pytest.raises(CheckError, match=f"gives the contract {view.packed.contract}, not 0123456789abcdef"):
        run_definition(KeptViewTask(settings, other))


@contextmanager
def asking(settings: Settings) -> Iterator[Asking]:
    with running_reader(settings) as reader:
        wait_for(lambda: answers(reader, "first") and answers(reader, "second"))
        with Asking(reader) as load:
            yield load


def answers(reader: RunningReader, model: str) -> bool:
    connection = http.client.HTTPConnection(reader.url.removeprefix("http://"))
    connection.request("POST", f"/v1/{model}", '{"customer":1,"factor":1}', {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer.get("answered_by") == "model"


def kept(settings: Settings) -> list[str]:
    """The names of kept contracts with a store or tables here."""
    stores = [path.name for path in settings.store_path.iterdir()]
    tables = [name.split("_", 1)[1] for name in table_names(settings) if name.startswith(("features_", "tiles_"))]
    return sorted({name for name in (*stores, *tables) if split_kept_name(name)})


def test_models_of_two_contracts_answer_side_by_side_until_the_old_one_is_retired(
    shop: Settings, tmp_path: Path
) -> None:
    assert run_nightly(shop, tmp_path / "old", DAYS[5], "first", "second")["objections"] == []
    old = dict(list_contracts(shop))
    with asking(shop) as load:
        load.wait_for()
        assert {key[1:] for key in load.answers} == {("old", "own", "own")}

        # The views change, and only one model is released with the new contracts.
        assert run_nightly(shop, tmp_path / "new", DAYS[6], "second")["objections"] == []
        load.wait_for()
        assert kept(shop) == sorted(f"{view}__{contract}" for view, contract in old.items())
        load.settle(OLD_KEPT, NEW)
        assert [row["pipeline"] for row in httpx.get(f"{load.url}/v1").json()["pipelines"]] == ["habits", "recent"]
        rows = {row["name"]: row for row in project_status(shop)["versions"]}
        assert rows[f"habits__{old['habits']}"]["kept_for"] == ["release 1 of first"]
        assert "kept_for" not in rows["habits"]

        # Both contracts are built every night, and a run that has nothing to do sees that before it starts.
        told = run_nightly(shop, tmp_path / "new", DAYS[7], "second")
        assert (told["objections"], told["had_work"]) == ([], True)
        assert not run_nightly(shop, tmp_path / "new", DAYS[7], "second")["had_work"]
        load.wait_for()
        as_of = [open_store(shop, name).current().as_of for name in (*kept(shop), "habits", "recent")]
        assert as_of == [str(DAYS[7])] * 4

        # The other model is released, too: nothing names the old contracts, and the next night removes them.
        assert run_nightly(shop, tmp_path / "new", DAYS[8], "first")["objections"] == []
        load.wait_for()
        load.settle(("first", "new", "own", "own"), NEW)
        assert run_nightly(shop, tmp_path / "new", DAYS[9], "second")["objections"] == []
        load.wait_for()
        assert kept(shop) == []
        load.settle(("first", "new", "own", "own"), NEW)

        # A release that is kept can be current again: its contracts are built again, whatever the ledger knew of them.
        roll_back_release(shop, "first", 1)
        assert run_nightly(shop, tmp_path / "new", DAYS[9], "second")["objections"] == []
        load.wrong.clear()  # until the features were built again, the fallback answered
        load.settle(OLD_KEPT, NEW)


def test_a_view_that_changes_back_is_served_by_its_own_store_again(shop: Settings, tmp_path: Path) -> None:
    run_nightly(shop, tmp_path / "old", DAYS[5], "first", "second")
    run_nightly(shop, tmp_path / "new", DAYS[6], "second")
    old = kept(shop)
    with asking(shop) as load:
        load.wait_for()
        run_nightly(shop, tmp_path / "old", DAYS[7], "first")
        load.wait_for()
        load.settle(OLD, NEW_KEPT)
        run_nightly(shop, tmp_path / "old", DAYS[8], "first")
        load.wait_for()
    assert kept(shop)
    assert not set(kept(shop)) & set(old)


def test_a_definition_that_cannot_be_built_any_more_goes_on_with_its_last_version(
    shop: Settings, tmp_path: Path
) -> None:
    run_nightly(shop, tmp_path / "old", DAYS[5], "first", "second")
    for view, contract in list_contracts(shop):
        found = read_definition(shop, view, contract)
        files = {**found.files, "shop/rates.py": "import no_such_package\n"}
        file = Path(shop.lake_uri) / f".state/views/{view}/{contract}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "files": files}))
    with asking(shop) as load:
        told = run_nightly(shop, tmp_path / "new", DAYS[6], "second")
        assert [each.partition(":")[0] for each in told["objections"]] == [
            "The features that release 1 of first and release 1 of second was trained with are not built any more"
        ] * 2
        assert "no_such_package" in told["objections"][0]
        load.wait_for()
    assert {open_store(shop, name).current().as_of for name in kept(shop)} == {str(DAYS[5])}


def test_another_machine_with_an_empty_disk_keeps_the_contract_and_a_replica_pulls_and_drops_it(
    shop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = {"lake": str(tmp_path / "lake"), "store_remote": str(tmp_path / "remote"), "kept_contract_days": 0.0}
    machines = [
        load_settings(home=tmp_path / f"machine-{number}", landing=shop.landing_uri, **shared) for number in range(4)
    ]
    run_nightly(machines[0], tmp_path / "old", DAYS[5], "first", "second")
    replica = load_settings(home=tmp_path / "replica", store_remote=shared["store_remote"])
    for name, value in {"HOME": replica.home_path, "STORE_REMOTE": replica.store_remote}.items():
        monkeypatch.setenv(f"FORECACHE_{name}", str(value))
    assert main(["store", "pull"]) == 0
    with asking(replica) as load:
        load.wait_for()
        run_nightly(machines[1], tmp_path / "new", DAYS[6], "second")
        assert main(["store", "pull"]) == 0
        load.wait_for()
        load.settle(OLD_KEPT, NEW)
        run_nightly(machines[2], tmp_path / "new", DAYS[7], "first")
        run_nightly(machines[3], tmp_path / "new", DAYS[8], "second")
        for removed in (0, 2):  # a reader may still answer by the release before, where this pull has brought the next
            capsys.readouterr()
            assert main(["store", "pull"]) == 0
            assert capsys.readouterr().err.count("is removed: no release names it any more") == removed
            load.settle(("first", "new", "own", "own"), NEW)
        load.wait_for()
    assert [path.name for path in (tmp_path / "remote").iterdir() if split_kept_name(path.name)] == []
    assert kept(replica.model_copy(update={"lake": shared["lake"]})) == []
