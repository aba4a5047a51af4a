"""Kept contracts of a view: functions on frames, definitions that cannot be built, and machines with an empty disk."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asked_project.pipelines.payments import payments
from contracts_asking import NEW, OLD_KEPT, asking
from contracts_shop import CUSTOMERS, DAYS, environment_of, kept, land, run_nightly, true_features, write_project
from store_services import redis_server

from forecache import Lookup
from forecache.base.errors import CheckError
from forecache.base.settings import Settings, load_settings
from forecache.base.table_names import split_kept_name
from forecache.cli.main import main
from forecache.lake.kept_definitions import list_contracts, read_definition
from forecache.operations.kept_process import find_other_modules
from forecache.operations.view_definitions import KeptTask, keep_definitions, run_definition
from forecache.plugins.redis.client import connect
from forecache.plugins.redis.versions import pipelines_in_redis
from forecache.serve.store import encode_key, open_store

pytestmark = pytest.mark.slow


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
        replace(view, name="household_" * 5),
        replace(view, active_days=7),
    ):
        declared = replace(payments, lookups=(Lookup(changed, name="household"),))
        keep_definitions(settings, declared, progress=lambda message, share: said.append(message))
    assert [message.partition(" end with its next change: ")[2] for message in said] == [
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
        run_definition(KeptTask(settings, other))


@pytest.mark.parametrize(
    ("rates", "why"), [("import no_such_package\n", "no_such_package"), (None, "of the lake is damaged")]
)
def test_a_definition_that_cannot_be_built_any_more_goes_on_with_its_last_version(
    shop: Settings, tmp_path: Path, rates: str | None, why: str
) -> None:
    run_nightly(shop, tmp_path / "old", DAYS[5], "first", "second")
    for view, contract in list_contracts(shop):
        files = {**read_definition(shop, view, contract).files, "shop/rates.py": rates}
        file = Path(shop.lake_uri) / f".state/views/{view}/{contract}.json"
        content = json.dumps({**json.loads(file.read_text()), "files": files})
        file.write_text("{" if rates is None else content)
    with asking(shop) as load:
        told = run_nightly(shop, tmp_path / "new", DAYS[6], "second")
        assert [each.partition(":")[0] for each in told["objections"]] == [
            "The features that release 1 of first and release 1 of second was trained with are not built any more"
        ] * 2
        assert why in told["objections"][0]
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


def test_a_reader_without_a_store_finds_each_contract_in_redis_until_the_old_one_is_removed(
    shop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for definition in ("old", "new"):
        write_project(tmp_path / definition, definition, backend="redis")
    with redis_server(tmp_path / "redis") as port:
        shared = {"store_remote": str(tmp_path / "remote"), "redis_url": f"redis://127.0.0.1:{port}"}
        publisher, reader = shop.model_copy(update=shared), load_settings(home=tmp_path / "reader", **shared)
        client = connect(publisher.redis_url)

        def pull_releases() -> None:
            with monkeypatch.context() as patched:
                patched.setenv("FORECACHE_HOME", str(reader.home_path))
                patched.setenv("FORECACHE_STORE_REMOTE", reader.store_remote)
                assert main(["store", "pull", "first", "second"]) == 0

        def count_entries(name: str) -> int:
            return sum(1 for _ in client.scan_iter(f"{name}:*"))

        run_nightly(publisher, tmp_path / "old", DAYS[5], "first", "second")
        pull_releases()
        with asking(reader) as load:
            load.wait_for()
            assert run_nightly(publisher, tmp_path / "new", DAYS[6], "second")["objections"] == []
            pull_releases()
            load.settle(OLD_KEPT, NEW)
            names = kept(publisher)
            assert len(names) == 2
            counts = [count_entries(name) for name in names]
            assert all(counts)
            for machine in (publisher.home_path, tmp_path / "empty"):
                client.flushall()
                environment = {**environment_of(publisher, tmp_path / "new"), "FORECACHE_HOME": str(machine)}
                command = [sys.executable, "-m", "forecache.cli.main", "store", "push"]
                subprocess.run(command, env={**environment, "FORECACHE_PROJECT": "shop"}, cwd=tmp_path, check=True)
                assert [count_entries(name) for name in names] == counts
                load.settle(OLD_KEPT, NEW)
            assert run_nightly(publisher, tmp_path / "new", DAYS[7], "first")["objections"] == []
            pull_releases()
            load.settle(("first", "new", "own", "own"), NEW)
            assert run_nightly(publisher, tmp_path / "new", DAYS[8], "second")["objections"] == []
            pull_releases()
            load.settle(("first", "new", "own", "own"), NEW)
            assert kept(publisher) == []
            assert pipelines_in_redis(client) == {"habits", "recent"}
            left = {key.decode() for key in client.scan_iter("*__*")}
            assert left == set()
        client.close()
    assert not reader.store_path.exists() or not any(
        (reader.store_path / name).exists() for name in ("habits", "recent", *names)
    )
