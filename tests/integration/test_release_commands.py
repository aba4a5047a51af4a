"""What the commands and `doctor` show of releases, whole and damaged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked_project.pipelines.payments import payments
from released_payments import changed

from forecache.base.errors import DamagedError
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.declare import Lookup
from forecache.operations.release import release_model, roll_back_release
from forecache.plugins.doctor.checks import check_releases
from forecache.plugins.store_checks.verify_stores import verify_releases
from forecache.realtime.release.folder import open_releases


def test_a_release_without_its_description_is_damaged_and_a_current_one_that_is_gone_is_told(
    settings: Settings, answer: Any
) -> None:
    for deadline in (10.0, 20.0, 30.0):
        release_model(settings, changed(deadline_ms=deadline))
    folder = open_releases(settings, "payments")
    in_lake = Path(settings.lake_uri) / ".realtime/payments/releases"
    for gone in (folder.release(2), in_lake / "00000002"):
        (gone / "release.json").unlink()
    assert [bool(row["problem"]) for row in answer("release", "list", "payments")] == [False, True, False]
    found = verify_releases(settings, ["payments"])
    assert [(each.version, bool(each.problem)) for each in found] == [
        (None, False), (1, False), (2, True), (3, False),
    ]  # fmt: skip
    with pytest.raises(DamagedError, match=r"release\.json"):
        roll_back_release(settings, "payments", 2)
    shutil.rmtree(folder.release(3))
    assert [(each.version, bool(each.problem)) for each in verify_releases(settings, ["payments"])] == [
        (None, False), (1, False), (2, True), (3, True),
    ]  # fmt: skip
    assert roll_back_release(settings, "payments").current == 1


@pytest.fixture
def answer(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home))
    monkeypatch.setenv("FORECACHE_PROJECT", "asked_project")

    def run(*arguments: str, code: int = 0) -> Any:
        assert main([*arguments, "--json"]) == code
        out, err = capsys.readouterr()
        return err if code else json.loads(out)

    return run


def test_the_command_line_releases_lists_goes_back_and_verifies(
    answer: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = answer("release", "list", "payments", code=3)
    assert "Nothing is released of payments. Run `forecache release build payments`" in said
    assert "There is no real-time model 'none'" in answer("release", "list", "none", code=3)
    assert answer("release", "build", "payments")["details"]["release"] == 1
    assert answer("release", "build", "payments")["skipped"]
    release_model(settings, changed(deadline_ms=20.0))
    (second, first) = answer("release", "list", "payments")
    assert (second["release"], second["state"], second["runtime"]) == (2, ["current"], "function")
    assert (first["release"], first["state"]) == (1, [])
    assert answer("rollback", "payments", "--reason", "slow") == {
        "name": "payments", "release": 1, "rolled_back": [2]
    }  # fmt: skip
    assert [row["state"] for row in answer("release", "list", "payments")] == [["rolled back"], ["current"]]
    verified = [(item["version"], item["problem"]) for item in answer("store", "verify")["versions"]]
    assert verified == [(None, ""), (1, ""), (2, "")]
    remote = tmp_path / "remote"
    (pushed,) = [row for row in answer("store", "push", "--remote", str(remote)) if "skipped" not in row]
    assert (pushed["pipeline"], pushed["version"]) == ("payments", 1)
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "replica"))
    (pulled,) = answer("store", "pull", "--remote", str(remote))
    assert (pulled["pipeline"], pulled["version"], pulled["moved"]) == ("payments", 1, True)
    assert answer("store", "pull", "payments", "--remote", str(remote))[0]["moved"] is False


def test_the_command_line_says_what_it_did(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home))
    monkeypatch.setenv("FORECACHE_PROJECT", "asked_project")
    release_model(settings, changed(deadline_ms=20.0))
    assert main(["release", "build", "payments"]) == 0
    assert "Release 2 of payments answers now: model payments 1 (function asked_project" in capsys.readouterr().out
    assert main(["rollback", "payments"]) == 0
    assert "Release 1 of payments answers now." in capsys.readouterr().out
    assert main(["release", "build", "payments"]) == 6
    assert "those of release 2, which was rolled back" in capsys.readouterr().err
    assert main(["release", "build", "payments", "--again"]) == 0
    assert main(["release", "list", "payments"]) == 0
    assert "rolled back" in capsys.readouterr().out
    file = open_releases(settings, "payments").release(3) / "code" / "asked_project" / "scales.py"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["store", "verify"]) == 6
    assert "payments 3" in capsys.readouterr().err


def test_doctor_says_whether_releases_fit_what_is_declared(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    project = load_settings(home=settings.home, project="asked_project")
    found = check_releases(project)
    assert (found.state, found.found) == ("warn", "none yet of payments, search")
    assert "of a model that is not trained here, `forecache run NAME`" in found.remedy
    release_model(settings, payments)
    found = check_releases(project)
    assert (found.state, found.found) == ("warn", "none yet of search")
    household = payments.lookups[0].view
    wider = replace(household, windows=household.windows[:1])
    release_model(settings, changed(lookups=(Lookup(wider),)))
    found = check_releases(project)
    assert (found.state, found.found) == (
        "warn", "the view household has changed since release 2 of payments was trained"
    )  # fmt: skip
    (open_releases(settings, "payments").release(2) / "model.bin").write_bytes(b"")
    found = check_releases(project)
    assert found.state == "fail"
    assert "model.bin is damaged" in found.found
