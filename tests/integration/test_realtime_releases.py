"""Releasing a real-time model: when a release is made, what is refused, going back, and replicas."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from applied_sample import onnx_model, register
from asked_project import transforms
from asked_project.pipelines.payments import payments

from forecache.cli.checks.releases import check_releases
from forecache.cli.main import main
from forecache.errors import CheckError, ConflictError, DamagedError, InputError, NotEverywhereError, NotFoundError
from forecache.folders import LocalFolder
from forecache.lake.examples.recorded import recorded_requests_file
from forecache.operations import release as module
from forecache.operations.release import release, roll_release_back
from forecache.pipeline import Feature, Lookup, Realtime, RegisteredModel, Rows
from forecache.realtime.release.folder import open_releases, read_current, read_release
from forecache.realtime.release.load import load_release
from forecache.realtime.release.replicas import pull_releases, push_releases, remote_releases
from forecache.realtime.release.verify import verify_releases
from forecache.registry.versions.models import FEATURES_TAG
from forecache.settings import PROJECT_ROOT, Settings, load_settings


def changed(**changes: Any) -> Realtime:
    return replace(payments, **changes)


def padded(rows: Rows) -> np.ndarray:
    """Of four features, as the network of `applied_sample` takes them."""
    return np.column_stack([rows["amount"], *[rows.feature("household", "spend_28d")] * 3])


def unsteady(rows: Rows, calls: list[int] = [0]) -> np.ndarray:  # noqa: B006
    calls[0] += 1
    return np.full((len(rows), 2), calls[0])


def narrow(rows: Rows) -> np.ndarray:
    return np.zeros((len(rows), 1))


def scores(settings: Settings, number: int) -> np.ndarray:
    loaded = load_release(open_releases(settings, "payments"), number)
    columns = loaded.builder.columns({"household_id": 1, "amount": 30.0})
    rows = loaded.builder.rows(columns, {"household": np.array([[2, 1]], np.float32)}, {"household": np.ones(1, bool)})
    found = loaded.score(rows)
    loaded.close()
    return found


def test_a_release_is_made_where_something_has_changed(settings: Settings) -> None:
    first = release(settings, payments)
    assert (first.skipped, first.details["release"]) == (False, 1)
    assert scores(settings, 1).tolist() == [10.0]
    written = read_release(open_releases(settings, "payments"), 1)
    assert written.lookups[0].contract == payments.lookups[0].view.packed.contract
    assert written.lookups[0].columns == ("spend_28d", "visits_28d")
    assert written.model.runtime == "function"
    again = release(settings, payments)
    assert (again.skipped, again.details["release"]) == (True, 1)
    assert release(settings, changed(owner="other@example.com")).skipped
    second = release(settings, changed(deadline_ms=20.0))
    assert (second.skipped, second.details["release"]) == (False, 2)
    assert read_release(open_releases(settings, "payments"), 2).deadline_ms == 20.0


def test_a_damaged_release_is_made_anew(settings: Settings) -> None:
    release(settings, payments)
    (open_releases(settings, "payments").release(1) / "model.bin").write_bytes(b"{}")
    again = release(settings, payments)
    assert (again.skipped, again.details["release"]) == (False, 2)
    assert scores(settings, 2).tolist() == [10.0]


@pytest.mark.parametrize(
    ("transform", "told"),
    [(unsteady, "gives other bits at another call"), (narrow, r"returned an array .* \(1, 1\)")],
)
def test_a_transform_that_cannot_answer_is_not_released(settings: Settings, transform: Any, told: str) -> None:
    with pytest.raises(CheckError, match=told):
        release(settings, changed(transform=transform))
    assert read_current(open_releases(settings, "payments")).current is None


def test_what_was_rolled_back_does_not_come_back_by_itself(settings: Settings) -> None:
    release(settings, payments)
    slow = changed(deadline_ms=20.0)
    release(settings, slow)
    assert roll_release_back(settings, "payments").current == 1
    held = release(settings, slow)
    assert (held.skipped, held.details["rolled_back"]) == (True, 2)
    assert read_current(open_releases(settings, "payments")).current == 1
    with pytest.raises(NotFoundError, match="no release of payments before 1 to go back to"):
        roll_release_back(settings, "payments")
    assert release(settings, slow, again=True).details["release"] == 3
    assert release(settings, slow).skipped
    assert roll_release_back(settings, "payments", 2).bad == (3,)


def test_what_was_current_does_not_come_back_where_a_release_after_it_takes_its_place(settings: Settings) -> None:
    for declared in (payments, changed(deadline_ms=20.0), payments):
        release(settings, declared)
    assert read_current(open_releases(settings, "payments")).current == 1
    assert roll_release_back(settings, "payments", 2).bad == (1,)
    held = release(settings, payments)
    assert (held.skipped, held.details["rolled_back"]) == (True, 1)
    assert read_current(open_releases(settings, "payments")).current == 2


def test_it_is_not_gone_back_to_a_release_that_is_damaged(settings: Settings) -> None:
    for deadline in (10.0, 20.0, 30.0):
        release(settings, changed(deadline_ms=deadline))
    (open_releases(settings, "payments").release(2) / "model.bin").unlink()
    with pytest.raises(DamagedError, match=r"model\.bin"):
        roll_release_back(settings, "payments", 2)
    assert roll_release_back(settings, "payments").current == 1


def test_a_release_without_its_description_is_damaged_and_a_current_one_that_is_gone_is_told(
    settings: Settings, answer: Any
) -> None:
    for deadline in (10.0, 20.0, 30.0):
        release(settings, changed(deadline_ms=deadline))
    folder = open_releases(settings, "payments")
    (folder.release(2) / "release.json").unlink()
    assert [bool(row["problem"]) for row in answer("releases", "payments")] == [False, True, False]
    found = verify_releases(settings, ["payments"])
    assert [bool(each.problem) for each in found] == [False, True, False]
    with pytest.raises(DamagedError, match=r"release\.json"):
        roll_release_back(settings, "payments", 2)
    shutil.rmtree(folder.release(3))
    assert [(each.version, bool(each.problem)) for each in verify_releases(settings, ["payments"])] == [
        (1, False), (2, True), (3, True),
    ]  # fmt: skip
    assert roll_release_back(settings, "payments").current == 1


@pytest.fixture
def registered(settings: Settings, tmp_path: Path) -> Realtime:
    register(settings, onnx_model(tmp_path / "one"))
    features = tuple(Feature(f"f{i}") for i in range(4))
    model = RegisteredModel("models:/churn_model@production")
    return changed(transform=padded, features=features, model=model, output="probability")


def test_a_registered_model_is_released_anew_when_its_alias_moves(
    settings: Settings, registered: Realtime, tmp_path: Path
) -> None:
    assert release(settings, registered).details["model"] == {"name": "churn_model", "version": 1}
    assert release(settings, registered).skipped
    before = scores(settings, 1)
    register(settings, onnx_model(tmp_path / "two", seed=1))
    assert release(settings, registered).details["model"]["version"] == 2
    written = read_release(open_releases(settings, "payments"), 2)
    assert (written.model.runtime, written.model.version) == ("onnx", 2)
    assert before.dtype == np.float32
    assert scores(settings, 2) != before
    assert scores(settings, 1) == before


def test_a_model_that_only_mlflow_runs_does_not_answer_requests(
    settings: Settings, registered: Realtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUNTIMES", ("lightgbm",))
    with pytest.raises(InputError, match="runs by onnx, which does not answer requests"):
        release(settings, registered)


def test_a_champion_of_other_features_is_not_released(
    settings: Settings, registered: Realtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Realtime, "is_trained", True)
    found = module.scoring_model(settings, registered.training_pipeline)
    for tag in ("", "of other features"):
        other = replace(found, tags={FEATURES_TAG: tag})
        monkeypatch.setattr(module, "scoring_model", lambda *_, other=other, **__: other)
        with pytest.raises(CheckError, match="was trained with another transform"):
            release(settings, registered)
    tags = {FEATURES_TAG: registered.training_pipeline.fingerprints.features}
    monkeypatch.setattr(module, "scoring_model", lambda *_, **__: replace(found, tags=tags))
    assert not release(settings, registered).skipped


def test_a_replica_pulls_what_was_pushed_and_nothing_twice(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(settings, "payments"), open_releases(replica, "payments")
    release(settings, payments)
    assert push_releases(here, remote)["release"] == 1
    assert push_releases(here, remote)["files"] == 0
    assert remote_releases(remote) == ["payments"]
    pulled = pull_releases(there, remote)
    assert (pulled["release"], pulled["moved"]) == (1, True)
    assert scores(replica, 1).tolist() == [10.0]
    again = pull_releases(there, remote)
    assert (again["files"], again["moved"]) == (0, False)
    release(settings, changed(deadline_ms=20.0))
    push_releases(here, remote)
    generation = read_current(there).generation
    assert pull_releases(there, remote)["release"] == 2
    assert read_current(there).generation == generation + 1
    roll_release_back(settings, "payments")
    push_releases(here, remote)
    assert pull_releases(there, remote) == {"release": 1, "files": 0, "bytes": 0, "moved": True}
    assert read_current(there).bad == (2,)


def test_a_file_that_was_changed_on_the_remote_is_not_taken(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    release(settings, payments)
    push_releases(open_releases(settings, "payments"), remote)
    (code,) = (tmp_path / "remote").rglob("scales.py")
    code.write_text(code.read_text().replace("log1p", "expm1"))
    there = open_releases(replica, "payments")
    with pytest.raises(CheckError, match="scales.py does not have the checksum"):
        pull_releases(there, remote)
    assert read_current(there).current is None
    assert there.numbers() == []


def test_a_damaged_release_is_pulled_again(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    release(settings, payments)
    push_releases(open_releases(settings, "payments"), remote)
    there = open_releases(replica, "payments")
    pull_releases(there, remote)
    (there.release(1) / "model.bin").write_bytes(b"x")
    assert not pull_releases(there, remote)["moved"]
    assert pull_releases(there, remote, verify=True)["files"] > 0
    assert scores(replica, 1).tolist() == [10.0]


class Interrupted(LocalFolder):
    """A remote to which something else happens just before something is done to it."""

    def __init__(self, root: Path, before: str, then: Callable[[], object]) -> None:
        super().__init__(root)
        self.before, self.then = before, then

    def _interrupt(self, at: str) -> None:
        if at == self.before:
            self.before = ""
            self.then()

    def swap(self, name: str, content: bytes, tag: str | None) -> str | None:
        self._interrupt("swap")
        return super().swap(name, content, tag)

    def write(self, name: str, content: bytes) -> None:
        self._interrupt("write")
        super().write(name, content)

    def delete(self, names: list[str]) -> None:
        self._interrupt("delete")
        super().delete(names)

    def names(self, prefix: str = "") -> list[str]:
        self._interrupt("names")
        return super().names(prefix)


@pytest.mark.parametrize("before", ["write", "swap", "names", "delete"])
def test_two_pushes_at_once_leave_the_newest_release_whole(settings: Settings, tmp_path: Path, before: str) -> None:
    plain, folder = LocalFolder(tmp_path / "remote"), open_releases(settings, "payments")

    def release_another() -> None:
        release(settings, changed(deadline_ms=20.0))
        push_releases(folder, plain)

    release(settings, payments)
    push_releases(folder, Interrupted(tmp_path / "remote", before, release_another))
    there = open_releases(load_settings(home=tmp_path / "replica"), "payments")
    assert pull_releases(there, plain)["release"] == 2
    assert scores(load_settings(home=tmp_path / "replica"), 2).tolist() == [10.0]


def test_a_push_does_not_undo_that_of_another_publisher(settings: Settings, tmp_path: Path) -> None:
    other = load_settings(home=tmp_path / "other")
    plain = LocalFolder(tmp_path / "remote")

    def push_another() -> None:
        release(other, changed(deadline_ms=20.0))
        push_releases(open_releases(other, "payments"), plain)

    release(settings, payments)
    with pytest.raises(ConflictError, match="moved by another process"):
        push_releases(open_releases(settings, "payments"), Interrupted(tmp_path / "remote", "swap", push_another))


def test_a_damaged_pointer_is_read_from_its_copy_and_both_can_be_had_again(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(settings, "payments"), open_releases(replica, "payments")
    release(settings, payments)
    push_releases(here, remote)
    pull_releases(there, remote)
    for folder in (here, there):
        known = read_current(folder)
        for torn in (b"", folder.pointer_copy.read_bytes()[:40]):
            folder.pointer.write_bytes(torn)
            assert read_current(folder) == known
        folder.pointer_copy.write_bytes(b"{}")
        with pytest.raises(DamagedError, match=r"CURRENT and .*CURRENT\.copy.*`forecache pull --verify`"):
            read_current(folder)
    with pytest.raises(DamagedError):
        pull_releases(there, remote)
    assert pull_releases(there, remote, verify=True)["moved"]
    assert read_current(there).current == 1
    for path in (here.pointer, here.pointer_copy):
        path.unlink()
    assert release(settings, payments).details["release"] == 1
    assert read_current(here).current == 1


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
    assert "Nothing is released of payments. Run `forecache release payments`" in answer("releases", "payments", code=3)
    assert "There is no real-time model 'none'" in answer("releases", "none", code=3)
    assert answer("release", "payments")["details"]["release"] == 1
    assert answer("release", "payments")["skipped"]
    release(settings, changed(deadline_ms=20.0))
    (second, first) = answer("releases", "payments")
    assert (second["release"], second["state"], second["runtime"]) == (2, ["current"], "function")
    assert (first["release"], first["state"]) == (1, [])
    assert answer("rollback", "payments", "--reason", "slow") == {
        "name": "payments", "release": 1, "rolled_back": [2]
    }  # fmt: skip
    assert [row["state"] for row in answer("releases", "payments")] == [["rolled back"], ["current"]]
    assert [item["problem"] for item in answer("verify")["versions"]] == ["", ""]
    remote = tmp_path / "remote"
    (pushed,) = [row for row in answer("push", "--remote", str(remote)) if "skipped" not in row]
    assert (pushed["pipeline"], pushed["version"]) == ("payments", 1)
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "replica"))
    (pulled,) = answer("pull", "--remote", str(remote))
    assert (pulled["pipeline"], pulled["version"], pulled["moved"]) == ("payments", 1, True)
    assert answer("pull", "payments", "--remote", str(remote))[0]["moved"] is False


def test_the_command_line_says_what_it_did(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home))
    monkeypatch.setenv("FORECACHE_PROJECT", "asked_project")
    release(settings, changed(deadline_ms=20.0))
    assert main(["release", "payments"]) == 0
    assert "Release 2 of payments answers now: model payments 1." in capsys.readouterr().out
    assert main(["rollback", "payments"]) == 0
    assert "Release 1 of payments answers now." in capsys.readouterr().out
    assert main(["release", "payments"]) == 6
    assert "those of release 2, which was rolled back" in capsys.readouterr().err
    assert main(["release", "payments", "--again"]) == 0
    assert main(["releases", "payments"]) == 0
    assert "rolled back" in capsys.readouterr().out
    file = open_releases(settings, "payments").release(3) / "code" / "asked_project" / "scales.py"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["verify"]) == 6
    assert "payments 3" in capsys.readouterr().err


def test_the_functions_of_a_release_are_not_the_projects(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    release(settings, payments)
    monkeypatch.setattr(transforms, "suspicion", lambda features: features["amount"] * 0)
    assert scores(settings, 1).tolist() == [10.0]


def test_a_release_is_loaded_without_the_project_and_without_heavy_libraries(
    settings: Settings, tmp_path: Path
) -> None:
    release(settings, payments)
    program = (
        "import sys\n"
        f"sys.path[:] = [path for path in sys.path if 'support' not in path] + [{str(PROJECT_ROOT)!r}]\n"
        "from pathlib import Path\n"
        "from forecache.realtime.release.folder import ReleaseFolder\n"
        "from forecache.realtime.release.load import load_release\n"
        f"loaded = load_release(ReleaseFolder(Path({str(open_releases(settings, 'payments').root)!r})), 1)\n"
        "assert 'asked_project' not in sys.modules\n"
        "print(*{name.split('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path, env={}
    )
    heavy = {"pyspark", "torch", "mlflow", "pandas", "dagster", "deltalake", "great_expectations", "lightgbm"}
    assert not set(done.stdout.split()) & heavy


def test_doctor_says_whether_releases_fit_what_is_declared(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    project = load_settings(home=settings.home, project="asked_project")
    found = check_releases(project)
    assert (found.state, found.found) == ("warn", "none yet of payments, search")
    assert "of a model that is not trained here, `forecache run NAME`" in found.remedy
    release(settings, payments)
    found = check_releases(project)
    assert (found.state, found.found) == ("warn", "none yet of search")
    household = payments.lookups[0].view
    wider = replace(household, windows=household.windows[:1])
    release(settings, changed(lookups=(Lookup(wider),)))
    found = check_releases(project)
    assert (found.state, found.found) == (
        "warn", "the view household has changed since release 2 of payments was trained"
    )  # fmt: skip
    (open_releases(settings, "payments").release(2) / "model.bin").write_bytes(b"")
    found = check_releases(project)
    assert found.state == "fail"
    assert "model.bin is damaged" in found.found


def test_with_a_remote_a_release_and_its_rollback_are_there_too(settings: Settings, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    distributed = load_settings(home=settings.home, store_remote=str(remote))
    there = open_releases(load_settings(home=tmp_path / "replica"), "payments")
    for deadline in (10.0, 20.0):
        release(distributed, changed(deadline_ms=deadline))
    assert pull_releases(there, LocalFolder(remote))["release"] == 2
    roll_release_back(distributed, "payments")
    assert pull_releases(there, LocalFolder(remote))["release"] == 1


def test_a_remote_that_is_away_is_told_and_the_release_stands(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("no folder")
    distributed = load_settings(home=settings.home, store_remote=str(tmp_path / "remote"))
    for _ in range(2):
        with pytest.raises(NotEverywhereError, match="Release 1 of payments is current. That is done here"):
            release(distributed, payments)
    assert read_current(open_releases(settings, "payments")).current == 1
    (tmp_path / "remote").unlink()
    assert release(distributed, payments).skipped
    there = open_releases(load_settings(home=tmp_path / "replica"), "payments")
    assert pull_releases(there, LocalFolder(tmp_path / "remote"))["release"] == 1


def test_requests_that_the_training_has_recorded_warm_it(settings: Settings) -> None:
    file = recorded_requests_file(settings, "payments")
    file.parent.mkdir(parents=True)
    recorded = [json.dumps({"household_id": number, "amount": 1.5}) for number in range(60)]
    file.write_text(json.dumps(recorded))
    release(settings, payments)
    loaded = load_release(open_releases(settings, "payments"), 1)
    assert [text.decode() for text in loaded.warmup] == recorded[:50]
    loaded.close()
    file.write_text(json.dumps([json.dumps({"household_id": 1})]))
    with pytest.raises(CheckError, match="cannot answer a request that was recorded: .*'amount' is missing"):
        release(settings, changed(deadline_ms=20.0))
