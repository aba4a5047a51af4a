"""The removal of kept contracts: whatever a killed process left is found, and two processes do it one after another."""

import threading
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from forecache.base.errors import DamagedError, ForecacheError
from forecache.base.settings import Settings
from forecache.base.steps import contract_step
from forecache.base.table_names import FEATURES, TILES, kept_name
from forecache.declare import Publish, load_pipeline
from forecache.kit.installation import open_lake, open_state
from forecache.lake.kept_definitions import KeptDefinition, list_contracts, read_definition, write_definition
from forecache.lake.quality.pending_files import ProcessRun
from forecache.operations import kept_contracts
from forecache.operations.kept_contracts import ContractUsers, find_contract_users, retire_contracts
from forecache.realtime.release.folder import ReleasePointer
from forecache.realtime.release.lake_state import ReleaseState, swap_state
from forecache.serve.store import open_remote, open_store
from forecache.serve.store.push_pull import remove_retired_contracts

VIEW, CONTRACT = "habits", "0123456789abcdef"
NAME = kept_name(VIEW, CONTRACT)
NO_USERS = ContractUsers({}, frozenset())
DEFINITION = f"views/{VIEW}/{CONTRACT}.json"


@pytest.fixture
def shop(settings: Settings, tmp_path: Path) -> Settings:
    settings = settings.model_copy(update={"store_remote": str(tmp_path / "remote")})
    open_state(settings).write(DEFINITION, b"{}")
    return settings


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("left", ["hidden store", "remote without pointer", "table without log", "tiles without log"])
def test_what_a_killed_removal_left_is_removed_by_the_next(shop: Settings, left: str) -> None:
    lake, remote = Path(shop.lake_uri), Path(shop.store_remote)
    path = {
        "hidden store": shop.store_path / f".removed-{NAME}" / "versions" / "00000001.json",
        "remote without pointer": remote / NAME / "segments" / "one" / "data.mdb",
        "table without log": lake / (FEATURES + NAME) / "as_of=2026-01-01" / "one.parquet",
        "tiles without log": lake / (TILES + NAME) / "day=2026-01-01" / "one.parquet",
    }[left]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert retire_contracts(shop, NO_USERS) == [NAME]
    assert not path.exists()
    assert list_contracts(shop) == []
    assert retire_contracts(shop, NO_USERS) == []


def test_nothing_is_removed_that_a_release_may_name_whose_files_are_not_found(shop: Settings) -> None:
    open_lake(shop, below=FEATURES + NAME).write("one.parquet", b"x")
    released = ReleaseState(ReleasePointer(current=2), numbered=2, inputs={1: "x", 2: "y"})
    swap_state(open_lake(shop), "search", lambda _: released, begin=ReleaseState, floor=0)
    users = find_contract_users(shop)
    assert users.lost == ("release 1 of search", "release 2 of search")
    assert retire_contracts(shop, users) == []
    assert list_contracts(shop) == [(VIEW, CONTRACT)]
    assert retire_contracts(shop, replace(users, needed_lost=())) == [NAME]
    assert list_contracts(shop) == [(VIEW, CONTRACT)]


def test_a_replica_removes_what_a_killed_removal_left(shop: Settings) -> None:
    path = shop.store_path / f".removed-{NAME}" / "versions" / "00000001.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert remove_retired_contracts(shop, open_remote(shop.store_remote, {})) == []
    assert list(shop.store_path.iterdir()) == []


def test_a_second_process_waits_until_a_contract_is_removed(shop: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(shop, NAME).layout.create()
    open_lake(shop, below=FEATURES + NAME).write("one.parquet", b"x")
    waits, seen, errors = threading.Event(), list[str](), list[Exception]()

    def report(message: str, _: float | None) -> None:
        seen.append(message)
        waits.set()

    def retire() -> None:
        try:
            retire_contracts(shop, NO_USERS, progress=report)
        except (ForecacheError, OSError) as error:
            errors.append(error)
        waits.set()

    second = threading.Thread(target=retire)

    def start_second(step: str) -> None:
        if step == "store hidden":
            second.start()
            assert waits.wait(30)

    monkeypatch.setattr(contract_step, "on_step", start_second)
    assert retire_contracts(shop, NO_USERS) == [NAME]
    second.join(30)
    assert errors == []
    assert [message.partition(" (")[0].rpartition(" ")[0] for message in seen] == ["waiting for process"]
    assert [name for name in files_of(shop.home_path) if NAME in name and not name.startswith("locks")] == []
    assert list_contracts(shop) == []


@pytest.mark.parametrize(("content", "what"), [(b"{", "is damaged"), (b'{"format": 2}', "has the format 2")])
def test_a_definition_that_cannot_be_read_is_named(shop: Settings, content: bytes, what: str) -> None:
    open_state(shop).write(DEFINITION, content)
    with pytest.raises(DamagedError, match=f"{CONTRACT}.json of the lake {what}"):
        read_definition(shop, VIEW, CONTRACT)


def test_a_damaged_definition_does_not_end_the_other_contracts_of_its_view(
    shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = shop.model_copy(update={"project": "windowed_project", "store_remote": ""})
    view = replace(load_pipeline(shop, "spend").views[1], publish=Publish(max_psi=None))
    others, built = ["1" * 16, "2" * 16], list[str]()
    open_state(shop).write(f"views/{VIEW}/{others[0]}.json", b"{")
    write_definition(shop, KeptDefinition(VIEW, others[1], "windowed_project"))
    users = ContractUsers({(VIEW, each): ("release 1 of search",) for each in [CONTRACT, *others]}, frozenset())
    monkeypatch.setattr(kept_contracts, "find_contract_users", lambda _: users)
    monkeypatch.setattr(kept_contracts, "run_definition", lambda task, **_: built.append(task.definition.contract))
    run = ProcessRun(shop)
    kept_contracts.keep_contracts(run, view, [date(2026, 1, 9)])
    assert built == [others[1]]
    told = [reason for reason in run.objections if f"{others[0]}.json of the lake is damaged" in reason]
    assert [reason.startswith("The features that release 1 of search was trained with are not") for reason in told] == [
        True
    ]
