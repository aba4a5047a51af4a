"""Releasing a real-time model: when a release is made, what is refused, and going back."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from applied_sample import onnx_model, register
from asked_project import transforms
from asked_project.pipelines.payments import payments
from released_payments import changed, scores

from forecache import Rows
from forecache.base.errors import CheckError, ConflictError, DamagedError, InputError, NotFoundError
from forecache.base.settings import PROJECT_ROOT, Settings, load_settings
from forecache.declare import Feature, Realtime, RegisteredModel
from forecache.kit.versioned.pointer import read_pointer
from forecache.models.registry.model_versions import FEATURES_TAG
from forecache.operations import release as module
from forecache.operations.release import record_requests, release_model, roll_back_release
from forecache.realtime.release.folder import open_releases, read_release
from forecache.realtime.release.load import load_release


def padded(rows: Rows) -> np.ndarray:
    """Of four features, as the network of `applied_sample` takes them."""
    return np.column_stack([rows["amount"], *[rows.feature("household", "spend_28d")] * 3])


def unsteady(rows: Rows, calls: list[int] = [0]) -> np.ndarray:  # noqa: B006
    calls[0] += 1
    return np.full((len(rows), 2), calls[0])


def narrow(rows: Rows) -> np.ndarray:
    return np.zeros((len(rows), 1))


def test_a_release_is_made_where_something_has_changed(settings: Settings) -> None:
    first = release_model(settings, payments)
    assert (first.skipped, first.details["release"]) == (False, 1)
    assert scores(settings, 1).tolist() == [10.0]
    written = read_release(open_releases(settings, "payments"), 1)
    assert written.lookups[0].contract == payments.lookups[0].view.packed.contract
    assert written.lookups[0].columns == ("spend_28d", "visits_28d")
    assert written.model.runtime == "function"
    again = release_model(settings, payments)
    assert (again.skipped, again.details["release"]) == (True, 1)
    assert release_model(settings, changed(owner="other@example.com")).skipped
    second = release_model(settings, changed(deadline_ms=20.0))
    assert (second.skipped, second.details["release"]) == (False, 2)
    assert read_release(open_releases(settings, "payments"), 2).deadline_ms == 20.0


def places(settings: Settings, number: int) -> list[Path]:
    """Where the files of a release are: here, and in the lake."""
    in_lake = Path(settings.lake_uri) / f".realtime/payments/releases/{number:08d}"
    return [open_releases(settings, "payments").release(number), in_lake]


def test_a_damaged_release_is_fetched_again_or_made_anew(settings: Settings) -> None:
    release_model(settings, payments)
    (places(settings, 1)[0] / "model.bin").write_bytes(b"{}")
    assert release_model(settings, payments).skipped
    assert scores(settings, 1).tolist() == [10.0]
    for place in places(settings, 1):
        (place / "model.bin").write_bytes(b"{}")
    again = release_model(settings, payments)
    assert (again.skipped, again.details["release"]) == (False, 2)
    assert scores(settings, 2).tolist() == [10.0]


@pytest.mark.parametrize(
    ("transform", "told"),
    [(unsteady, "gives other bits at another call"), (narrow, r"returned an array .* \(1, 1\)")],
)
def test_a_transform_that_cannot_answer_is_not_released(settings: Settings, transform: Any, told: str) -> None:
    with pytest.raises(CheckError, match=told):
        release_model(settings, changed(transform=transform))
    assert read_pointer(open_releases(settings, "payments")).current is None


def test_what_was_rolled_back_does_not_come_back_by_itself(settings: Settings) -> None:
    release_model(settings, payments)
    slow = changed(deadline_ms=20.0)
    release_model(settings, slow)
    assert roll_back_release(settings, "payments").current == 1
    held = release_model(settings, slow)
    assert (held.skipped, held.details["rolled_back"]) == (True, 2)
    assert read_pointer(open_releases(settings, "payments")).current == 1
    with pytest.raises(NotFoundError, match="no release of payments before 1 to go back to"):
        roll_back_release(settings, "payments")
    assert release_model(settings, slow, again=True).details["release"] == 3
    assert release_model(settings, slow).skipped
    assert roll_back_release(settings, "payments", 2).bad == (3,)


def test_what_was_current_does_not_come_back_where_a_release_after_it_takes_its_place(settings: Settings) -> None:
    for declared in (payments, changed(deadline_ms=20.0), payments):
        release_model(settings, declared)
    assert read_pointer(open_releases(settings, "payments")).current == 1
    assert roll_back_release(settings, "payments", 2).bad == (1,)
    held = release_model(settings, payments)
    assert (held.skipped, held.details["rolled_back"]) == (True, 1)
    assert read_pointer(open_releases(settings, "payments")).current == 2


def test_it_is_not_gone_back_to_a_release_that_is_damaged(settings: Settings) -> None:
    for deadline in (10.0, 20.0, 30.0):
        release_model(settings, changed(deadline_ms=deadline))
    for place in places(settings, 2):
        (place / "model.bin").unlink()
    with pytest.raises(DamagedError, match=r"model\.bin"):
        roll_back_release(settings, "payments", 2)
    assert roll_back_release(settings, "payments").current == 1


_RELEASES = """
import sys
from released_payments import changed
from forecache.operations.release import release_model
from forecache.base.settings import load_settings
settings = load_settings(home=sys.argv[1], lake=sys.argv[2])
assert release_model(settings, changed(deadline_ms=30.0)).details["release"] == 3
"""


def test_a_release_that_becomes_current_during_a_rollback_is_not_marked_as_bad(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_model(settings, payments)
    release_model(settings, changed(deadline_ms=20.0))
    honest = module.require_release

    def late(*arguments: Any) -> Any:
        command = [sys.executable, "-c", _RELEASES, f"{settings.home_path}-other", settings.lake_uri]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        return honest(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(module, "require_release", late)
        with pytest.raises(ConflictError, match="Release 3 of payments has become current meanwhile"):
            roll_back_release(settings, "payments")
    pointer = read_pointer(open_releases(settings, "payments"))
    assert (pointer.current, pointer.bad) == (3, ())
    assert roll_back_release(settings, "payments").bad == (3,)


_ROLLS_BACK = """
import sys
from forecache.operations.release import roll_back_release
from forecache.base.settings import load_settings
assert roll_back_release(load_settings(home=sys.argv[1]), "payments", 1).bad == (2, 3)
"""


def test_an_earlier_release_that_is_rolled_back_meanwhile_is_not_taken_up_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for deadline_ms in (10.0, 20.0, 30.0):
        release_model(settings, changed(deadline_ms=deadline_ms))
    honest = module.start_or_make_current

    def late(*arguments: Any, **more: Any) -> Any:
        command = [sys.executable, "-c", _ROLLS_BACK, str(settings.home_path)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        return honest(*arguments, **more)

    monkeypatch.setattr(module, "start_or_make_current", late)
    with pytest.raises(ConflictError, match="Release 1 of payments has become current meanwhile"):
        release_model(settings, changed(deadline_ms=20.0))
    pointer = read_pointer(open_releases(settings, "payments"))
    assert (pointer.current, pointer.bad) == (1, (2, 3))


@pytest.fixture
def registered(settings: Settings, tmp_path: Path) -> Realtime:
    register(settings, onnx_model(tmp_path / "one"))
    features = tuple(Feature(f"f{i}") for i in range(4))
    model = RegisteredModel("models:/churn_model@production")
    return changed(transform=padded, features=features, model=model, output="probability")


def test_a_registered_model_is_released_anew_when_its_alias_moves(
    settings: Settings, registered: Realtime, tmp_path: Path
) -> None:
    assert release_model(settings, registered).details["model"] == {"name": "churn_model", "version": 1}
    assert release_model(settings, registered).skipped
    before = scores(settings, 1)
    register(settings, onnx_model(tmp_path / "two", seed=1))
    assert release_model(settings, registered).details["model"]["version"] == 2
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
        release_model(settings, registered)


def test_a_champion_of_other_features_is_not_released(
    settings: Settings, registered: Realtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = module.scoring_model(settings, registered)
    plan = module.plan_model(settings, registered, found)
    monkeypatch.setattr(module, "plan_model", lambda *_: plan)
    monkeypatch.setattr(Realtime, "is_trained", True)
    for tag in ("", "of other features"):
        other = replace(found, tags={FEATURES_TAG: tag})
        monkeypatch.setattr(module, "scoring_model", lambda *_, other=other, **__: other)
        with pytest.raises(CheckError, match="was trained with another transform"):
            release_model(settings, registered)
    tags = {FEATURES_TAG: registered.fingerprints.features}
    monkeypatch.setattr(module, "scoring_model", lambda *_, **__: replace(found, tags=tags))
    assert not release_model(settings, registered).skipped


def test_the_functions_of_a_release_are_not_the_projects(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    release_model(settings, payments)
    monkeypatch.setattr(transforms, "suspicion", lambda features: features["amount"] * 0)
    assert scores(settings, 1).tolist() == [10.0]


def test_a_release_is_loaded_without_the_project_and_without_heavy_libraries(
    settings: Settings, tmp_path: Path
) -> None:
    release_model(settings, payments)
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


def test_requests_that_the_training_has_recorded_warm_it(settings: Settings) -> None:
    recorded = [json.dumps({"household_id": number, "amount": 1.5}) for number in range(60)]
    record_requests(settings, "payments", recorded)
    elsewhere = load_settings(home=settings.home_path / "elsewhere", lake=settings.lake_uri)
    release_model(elsewhere, payments)
    loaded = load_release(open_releases(elsewhere, "payments"), 1)
    assert [text.decode() for text in loaded.warmup] == recorded[:50]
    loaded.close()
    record_requests(settings, "payments", [json.dumps({"household_id": 1})])
    with pytest.raises(CheckError, match="cannot answer a request that was recorded: .*'amount' is missing"):
        release_model(settings, changed(deadline_ms=20.0))
