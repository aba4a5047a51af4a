"""Two contracts of a view side by side: each look-up gets the one that its model was trained with, until it ends."""

from pathlib import Path

import httpx
import pytest
from contracts_asking import NEW, NEW_KEPT, OLD, OLD_KEPT, asking
from contracts_shop import DAYS, kept, land, run_nightly, write_project

from forecache.base.settings import Settings
from forecache.lake.kept_definitions import list_contracts
from forecache.operations.release import roll_back_release
from forecache.plugins.status.project_status import project_status
from forecache.serve.store import open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def shop(settings: Settings, tmp_path: Path) -> Settings:
    land(settings.home_path, DAYS)
    write_project(tmp_path / "old", "old")
    write_project(tmp_path / "new", "new")
    return settings.model_copy(update={"kept_contract_days": 0.0})


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
        load.wait_until_right()  # until the features were built again, the fallback answered
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
