"""A night that is killed while a contract is handed over or retired leaves each release the features that it names."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from contracts_shop import CUSTOMERS, DAYS, kept, land, run_nightly, true_features, write_project
from store_services import redis_server

from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.pointer import read_pointer
from forecache.lake.kept_definitions import list_contracts, read_definition
from forecache.plugins.maintenance.lake import maintain_lake
from forecache.plugins.redis.reader import RedisSource
from forecache.plugins.redis.versions import open_redis_store
from forecache.realtime.lookups import ViewLookups
from forecache.realtime.release.folder import open_releases, read_release
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import encode_key, open_store
from forecache.serve.store.remote_store import list_local_stores

pytestmark = [pytest.mark.faults, pytest.mark.slow]
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
true_features = cache(true_features)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects")
    write_project(folder / "old", "old")
    write_project(folder / "new", "new")
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, projects: Path) -> Path:
    """A home with both models released by the old definitions."""
    settings = load_settings(home=tmp_path_factory.mktemp("released") / "home")
    land(settings.home_path, DAYS)
    run_nightly(settings, projects / "old", DAYS[5], "first", "second")
    return settings.home_path


@pytest.fixture(scope="module")
def handed_over(tmp_path_factory: pytest.TempPathFactory, released: Path, projects: Path) -> Path:
    """A home with both models released by the new definitions, and the stores of the old ones not retired yet."""
    settings = copy_home(released, load_settings(home=tmp_path_factory.mktemp("handed-over") / "home"))
    run_nightly(settings, projects / "new", DAYS[6], "first")
    assert len(kept(settings)) == 2
    run_nightly(settings, projects / "new", DAYS[7], "second")
    assert len(kept(settings)) == 2
    assert check_lookups(settings) == {"habits", "recent"}
    return settings.home_path


def copy_home(home: Path, settings: Settings) -> Settings:
    shutil.copytree(home, settings.home_path)
    return settings.model_copy(update={"kept_contract_days": 0.0})


@pytest.fixture
def shop(settings: Settings, released: Path) -> Settings:
    return copy_home(released, settings)


@contextmanager
def served(settings: Settings) -> Iterator[dict[str, VersionAnswers]]:
    """What a reader would serve that starts now."""
    with ExitStack() as stack:
        stores = [store for store in list_local_stores(settings) if store.pointer().serving is not None]
        yield {store.pipeline: VersionAnswers(stack.enter_context(store.snapshot())) for store in stores}


def check_lookups(settings: Settings) -> set[str]:
    """Compare what the current release of each model looks up with the sales; returns the names of the stores."""
    names = set()
    with served(settings) as versions:
        for model in ("first", "second"):
            folder = open_releases(settings, model)
            number = read_pointer(folder).current
            assert number is not None
            for lookup in ViewLookups(read_release(folder, number).lookups, versions, refuses=True):
                found = lookup.find_version(versions)
                assert found is not None
                bound = lookup.bind(found)
                assert bound.broken == ""
                keys = [encode_key(found.manifest.key, customer) for customer in range(CUSTOMERS)]
                rows, known, _ = bound.read(keys, 0.0)
                definition = {1: "old", 2: "new"}[number]
                night = date.fromisoformat(found.manifest.as_of)
                view, columns = lookup.contract.view, lookup.contract.columns
                for customer, row, is_there in zip(range(CUSTOMERS), rows, known.tolist(), strict=True):
                    truth = true_features(definition, view, customer, night)
                    assert is_there == (truth is not None)
                    if truth is not None:
                        assert row.tobytes() == np.float32([truth[name] for name in columns]).tobytes()
                names.add(found.manifest.pipeline)
    return names


def break_definitions(shop: Settings) -> None:
    """Let the process that builds the old definition be killed, so that only the last version can be handed over."""
    for view, contract in list_contracts(shop):
        files = {**read_definition(shop, view, contract).files, "shop/rates.py": DIES}
        file = Path(shop.lake_uri) / f".state/views/{view}/{contract}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "files": files}))


@pytest.mark.parametrize(
    "step", ["contract:linked", "contract:handed over", "publish:segments moved", "publish:retired"]
)
def test_a_night_killed_while_a_contract_is_handed_over_leaves_each_release_its_features(
    shop: Settings, projects: Path, step: str
) -> None:
    break_definitions(shop)
    assert check_lookups(shop) == {"habits", "recent"}
    run_nightly(shop, projects / "new", DAYS[6], "second", kill=step)
    check_lookups(shop)
    told = run_nightly(shop, projects / "new", DAYS[6], "second")
    assert all("exit code -9" in each for each in told["objections"])
    assert len(told["objections"]) == 2
    assert check_lookups(shop) == {"habits", "recent", *kept(shop)}
    assert len(kept(shop)) == 2
    assert list(shop.store_path.rglob("*.linked")) == []


def test_a_contract_that_a_killed_night_has_handed_over_here_alone_is_in_redis_once_its_view_has_left_it(
    settings: Settings, tmp_path: Path
) -> None:
    land(settings.home_path, DAYS)
    for definition in ("old", "new"):
        write_project(tmp_path / definition, definition, backend="redis")
    with redis_server(tmp_path / "redis") as port:
        shop = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})
        run_nightly(shop, tmp_path / "old", DAYS[5], "first", "second")
        break_definitions(shop)
        run_nightly(shop, tmp_path / "new", DAYS[6], "second", kill="publish:pointer moved")
        assert len(kept(shop)) == 1
        assert set(RedisSource(shop.redis_url).current()) == {"habits", "recent"}
        run_nightly(shop, tmp_path / "new", DAYS[6], "second")
        assert len(kept(shop)) == 2
        for name in (*kept(shop), "habits", "recent"):
            with open_redis_store(shop, name).snapshot() as there, open_store(shop, name).snapshot() as here:
                assert there.manifest == here.manifest
                keys = [key for key, _ in here.items()]
                assert there.get_entries(keys) == here.get_entries(keys)


@pytest.mark.parametrize("step", ["store hidden", "store removed", "tables removed"])
def test_a_night_killed_while_a_contract_is_retired_is_finished_by_the_next_or_by_maintenance(
    settings: Settings, handed_over: Path, projects: Path, step: str
) -> None:
    shop = copy_home(handed_over, settings)
    run_nightly(shop, projects / "new", DAYS[8], "second", kill=f"contract:{step}")
    assert check_lookups(shop) == {"habits", "recent"}
    if step != "tables removed":
        run_nightly(shop, projects / "new", DAYS[8], "second")
    else:
        maintain_lake(shop)  # finishes it, too, also of views that are declared no more
    assert kept(shop) == []
    assert check_lookups(shop) == {"habits", "recent"}
    assert [path.name for path in shop.store_path.iterdir() if path.name.startswith(".removed")] == []


def test_a_night_killed_once_a_definition_is_kept_is_released_by_the_next(settings: Settings, projects: Path) -> None:
    land(settings.home_path, DAYS)
    run_nightly(settings, projects / "old", DAYS[5], "first", kill="contract:definition kept")
    assert len(list_contracts(settings)) == 1
    run_nightly(settings, projects / "old", DAYS[5], "first", "second")
    assert len(list_contracts(settings)) == 2
    assert check_lookups(settings) == {"habits", "recent"}
