"""Rollback moves the champion and what it published together; what was left does not come back by itself."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import registry_sample as sample
from registry_sample import NIGHT
from rollback_sample import score_night, two_champions
from sample_project.pipelines.visits import returns

from forecache.base.errors import CheckError, ConflictError, NotEverywhereError, NotFoundError, UnavailableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.registry import model_versions as models
from forecache.models.registry.promotions import promotions, record_promotion
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.operations import rollback as operation
from forecache.operations.publish_night import publish_night
from forecache.operations.rollback import recover_interrupted, roll_back, roll_back_model
from forecache.plugins.model_reports.report import write_report
from forecache.serve.store import Store, open_store, publish, push
from forecache.serve.store import remote as files
from forecache.serve.store.remote_store import RemoteStore

RULES = replace(returns.publish, max_psi=None)
PIPELINE = replace(returns, publish=RULES)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = load_settings(home=tmp_path_factory.mktemp("rollback") / "home")
    two_champions(settings, PIPELINE)
    return settings.home_path


@pytest.fixture
def home(settings: Settings, prepared: Path) -> Settings:
    """Settings of a home of the test's own."""
    shutil.copytree(prepared, settings.home_path)
    return settings


def state(settings: Settings) -> tuple[int, int, list[int]]:
    """The champion, the model that made what is served, and the blocked versions."""
    store = open_store(settings, "returns")
    served = store.current()
    assert served is not None
    return (
        models.champion(settings, PIPELINE).version,
        served.provenance.model_version,
        sorted(store.blocked_versions()),
    )


def test_a_copied_home_works_on_its_own(settings: Settings, prepared: Path, tmp_path: Path) -> None:
    first = load_settings(home=tmp_path / "first")
    shutil.copytree(prepared, first.home_path)
    verified = models.verified_folder(first, models.champion(first, PIPELINE))
    assert verified.is_relative_to(first.home_path)
    shutil.copytree(first.home_path, settings.home_path)
    shutil.rmtree(first.home_path)

    assert state(settings) == (2, 2, [])
    folder = models.verified_folder(settings, models.champion(settings, PIPELINE))
    assert folder.is_relative_to(settings.home_path)
    assert roll_back(settings, PIPELINE, actor="person").entry is not None
    score_night(settings, PIPELINE)
    publish_night(settings, PIPELINE, unchecked=True)
    assert state(settings) == (1, 1, [2])
    training = sample.made_up_training(settings, PIPELINE, (-0.03, 0.0, 0.8, 0.75, 0.0), training_version=2)
    new = register_trained_model(settings, PIPELINE, training).details["model_version"]
    assert run_gate(settings, PIPELINE, new, actor="training").champion_after == new
    assert models.verified_folder(settings, models.champion(settings, PIPELINE)).is_relative_to(settings.home_path)
    assert not first.home_path.exists()


def republish(settings: Settings) -> None:
    """The same model's predictions as another version, as the next night brings."""
    publish(settings, PIPELINE, full=True)


def test_the_model_and_what_it_published_go_back_together_with_one_operation_in_the_ledger(home: Settings) -> None:
    assert state(home) == (2, 2, [])
    done = roll_back(home, PIPELINE, actor="person", reason="complaints")
    assert state(home) == (1, 1, [2])
    assert models.model_version(home, PIPELINE, 2).gate == "rolled_back"
    begun, passed = promotions(home, "returns")[-2:]
    assert [entry.verdict for entry in (begun, passed)] == ["begun", "passed"]
    assert replace(passed, code_version="", position=None) == done.entry
    assert begun.operation == passed.operation != ""
    for entry in (begun, passed):
        moved = (entry.from_version, entry.to_version, entry.from_published, entry.to_published)
        assert moved == (2, 1, 2, 1)
        assert (entry.actor, entry.reason, entry.training_version) == ("person", "complaints", 2)
        assert entry.metrics["roc_auc"] > 0.5
    served = open_store(home, "returns").current()
    assert served is not None
    assert passed.predictions_version == served.source.delta_version


def test_the_model_goes_back_past_all_that_it_published_since(home: Settings) -> None:
    republish(home)
    republish(home)
    roll_back_model(home, PIPELINE, actor="person")
    assert state(home) == (1, 1, [2, 3, 4])


def test_a_version_of_the_same_model_moves_the_store_alone(home: Settings) -> None:
    republish(home)
    before = promotions(home, "returns")
    done = roll_back(home, PIPELINE, actor="person")
    assert done.entry is None
    assert state(home) == (2, 2, [3])
    assert promotions(home, "returns") == before


def test_keep_model_moves_the_store_alone_whichever_model_made_the_version(home: Settings) -> None:
    roll_back(home, PIPELINE, keep_model=True, actor="person")
    assert state(home) == (2, 1, [2])


def test_where_the_older_models_version_is_not_retained_nothing_moves_and_the_way_is_said(home: Settings) -> None:
    few = replace(PIPELINE, publish=replace(RULES, keep=0))
    publish(home, few, full=True)
    with pytest.raises(
        NotFoundError, match=r"retains no good version that model 1 made; it has 3 by model 2"
    ) as caught:
        roll_back_model(home, few, actor="person")
    assert "forecache models rollback returns --to 1 --model-only" in caught.value.remedy
    assert state(home) == (2, 2, [])
    assert promotions(home, "returns")[-1].verdict == "passed"

    roll_back_model(home, few, to=1, keep_published=True, actor="person")
    assert state(home) == (1, 2, [])
    score_night(home, few)
    publish_night(home, few, unchecked=True)
    assert state(home) == (1, 1, [])


def test_the_next_night_scores_with_the_restored_champion_and_publishes_nothing_of_the_model_left(
    home: Settings,
) -> None:
    roll_back(home, PIPELINE, actor="person")
    with pytest.raises(CheckError, match=rf"for {NIGHT} were made by model 2, which was rolled back") as caught:
        publish_night(home, PIPELINE, unchecked=True)
    assert f"forecache run returns --date {NIGHT}" in caught.value.remedy
    # Training again on the same data gives the version that was rolled back, and the gate moves nothing.
    training = sample.made_up_training(home, PIPELINE, sample.GOOD, training_version=2)
    assert register_trained_model(home, PIPELINE, training).details["model_version"] == 2
    assert run_gate(home, PIPELINE, 2, actor="training").passed
    assert state(home) == (1, 1, [2])
    score_night(home, PIPELINE)
    assert publish_night(home, PIPELINE, unchecked=True).details["version"] == 3
    assert state(home) == (1, 1, [2])


def test_a_person_brings_back_what_was_rolled_back(home: Settings) -> None:
    roll_back(home, PIPELINE, actor="person")
    with pytest.raises(NotFoundError, match="Versions it can go to: none"):
        roll_back(home, PIPELINE, version=2, actor="person")
    open_store(home, "returns").unblock(2)
    roll_back(home, PIPELINE, version=2, actor="person")
    assert state(home) == (2, 2, [1])
    assert models.model_version(home, PIPELINE, 2).gate == "passed"
    with pytest.raises(NotFoundError, match="first champion"):
        roll_back_model(home, PIPELINE, actor="person")


def test_a_tampered_target_is_refused_before_anything_moves(home: Settings) -> None:
    folder = models.verified_folder(home, models.model_version(home, PIPELINE, 1))
    original = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(original + b" ")
    try:
        with pytest.raises(CheckError, match="version 1 is refused"):
            roll_back(home, PIPELINE, actor="person")
    finally:
        (folder / "model.onnx").write_bytes(original)
    assert state(home) == (2, 2, [])
    assert recover_interrupted(home, PIPELINE) is None


def test_to_where_the_pipeline_is_already_there_is_nothing_to_roll_back(home: Settings) -> None:
    with pytest.raises(ConflictError, match="version 2 is the champion, and its predictions are served"):
        roll_back_model(home, PIPELINE, to=2, actor="person")
    with pytest.raises(NotFoundError, match="no good version that model 7 made"):
        roll_back_model(home, PIPELINE, to=7, actor="person")


def fail(*_: object, **__: object) -> None:
    raise ConnectionError("away")


def test_a_rollback_that_did_not_reach_the_remote_is_finished_on_a_machine_with_an_empty_disk(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = LocalFolder(tmp_path / "remote")
    push(open_store(home, "returns"), remote)
    settings = home.model_copy(update={"store_remote": str(tmp_path / "remote")})
    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "_upload", fail)
        with pytest.raises(NotEverywhereError, match="not in every replica of returns: .*ConnectionError: away"):
            roll_back(settings, PIPELINE, actor="person")
    assert [entry.verdict for entry in promotions(settings, "returns")][-1] == "begun"
    shutil.rmtree(settings.store_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_remote", fail)
        for act in (recover_interrupted, partial(roll_back_model, actor="person")):
            with pytest.raises(UnavailableError, match="cannot be reached"):
                act(settings, PIPELINE)
    assert [entry.verdict for entry in promotions(settings, "returns")][-1] == "begun"
    pointer = files.read_remote_pointer(remote, "returns")
    assert pointer is not None
    assert (pointer.current, pointer.bad) == (2, {})
    done = recover_interrupted(settings, PIPELINE)
    assert done is not None
    assert done.entry is not None
    assert done.entry.verdict == "passed"
    pointer = files.read_remote_pointer(remote, "returns")
    assert pointer is not None
    assert (pointer.current, list(pointer.bad)) == (1, ["2"])
    assert models.champion(settings, PIPELINE).version == 1


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x15
    path.write_bytes(content)


class Stopped(BaseException):
    """What ends a rollback in these tests at the step they name."""


def cut_short(settings: Settings, step: str, monkeypatch: pytest.MonkeyPatch, *, version: int | None = None) -> None:
    def stop(name: str) -> None:
        if name == step:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(operation, "rollback_step", stop)
        with pytest.raises(Stopped):
            roll_back(settings, PIPELINE, version=version, actor="person", reason="complaints")


def test_a_rollback_cut_short_is_finished_by_the_next_one_which_does_nothing_else(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(home, "champion moved", monkeypatch)
    assert state(home) == (1, 2, [])
    done = roll_back(home, PIPELINE, actor="another", reason="again")
    assert done.resumed
    assert done.entry is not None
    assert (done.entry.actor, done.entry.verdict) == ("person", "passed")
    assert state(home) == (1, 1, [2])


def test_a_rollback_whose_target_is_gone_meanwhile_is_undone(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_short(home, "model marked", monkeypatch)
    assert state(home) == (1, 2, [])
    open_store(home, "returns").layout.manifest(1).unlink()
    done = recover_interrupted(home, PIPELINE)
    assert done is not None
    assert done.entry is not None
    assert done.entry.verdict == "undone"
    assert "has no version 1" in done.entry.reason
    assert state(home) == (2, 2, [])
    assert models.model_version(home, PIPELINE, 2).gate == "passed"
    assert recover_interrupted(home, PIPELINE) is None


@pytest.mark.parametrize("step", ["champion moved", "pointer moved"])
def test_a_rollback_whose_target_is_damaged_meanwhile_is_undone(
    home: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    cut_short(home, step, monkeypatch)
    store = open_store(home, "returns")
    [path] = store.layout.root.glob("segments/00000001-base-*/000.mdb")
    damage(path)
    done = recover_interrupted(home, PIPELINE)
    assert done is not None
    assert done.entry is not None
    assert done.entry.verdict == "undone"
    assert "000.mdb is damaged" in done.entry.reason
    assert state(home) == (2, 2, [])
    damage(store.layout.manifest(1))
    assert recover_interrupted(home, PIPELINE) is None


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: damage(path)])
@pytest.mark.parametrize("roll", [roll_back, roll_back_model])
def test_a_version_whose_manifest_is_lost_can_be_rolled_back_from(
    home: Settings, lose: Callable[[Path], None], roll: Callable[..., object]
) -> None:
    store = open_store(home, "returns")
    lose(store.layout.manifest(2))
    roll(home, PIPELINE, actor="person")
    served = store.current()
    assert served is not None
    assert served.version == 1
    assert "2" in store.pointer().bad


def test_a_version_published_past_a_rollback_that_was_cut_short_stays(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(home, "begun", monkeypatch)
    republish(home)
    recover_interrupted(home, PIPELINE)
    assert state(home) == (1, 2, [2])


@pytest.mark.parametrize("step", ["begun", "champion moved", "pointer moved"])
def test_a_pin_that_is_set_after_a_rollback_was_cut_short_outlasts_its_completion(
    home: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    republish(home)
    store = open_store(home, "returns")
    cut_short(home, step, monkeypatch, version=1)
    store.pin(2)
    said: list[str] = []
    done = recover_interrupted(home, PIPELINE, progress=lambda message, _: said.append(message))
    assert done is not None
    assert "version 2 stays pinned" in said[-1]
    assert (store.pointer().current, store.pointer().pinned) == (1, 2)
    assert models.champion(home, PIPELINE).version == 1
    served = store.unpin()
    assert served is not None
    assert served.version == 1


def test_a_pin_from_before_a_rollback_is_lifted_by_it_and_by_its_completion(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    republish(home)
    store = open_store(home, "returns")
    store.pin(2)
    cut_short(home, "champion moved", monkeypatch, version=1)
    recover_interrupted(home, PIPELINE)
    assert (store.pointer().current, store.pointer().pinned) == (1, None)


def test_publishing_finishes_what_was_cut_short_first(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_short(home, "begun", monkeypatch)
    with pytest.raises(CheckError, match="which was rolled back"):
        publish_night(home, PIPELINE, unchecked=True)
    assert state(home) == (1, 1, [2])


def test_a_ledger_from_before_rollbacks_were_operations_is_read_and_added_to(home: Settings) -> None:
    from deltalake import DeltaTable, write_deltalake

    uri = home.table_uri("promotion_ledger")
    older = DeltaTable(uri).to_pyarrow_table()
    new = ["operation", "from_published", "to_published", "predictions_version"]
    write_deltalake(uri, older.drop_columns(new), mode="overwrite", schema_mode="overwrite")
    assert recover_interrupted(home, PIPELINE) is None
    last = promotions(home, "returns")[-1]
    record_promotion(home, last, after=last)
    assert len(promotions(home, "returns")) == 3


@pytest.fixture
def shell(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FORECACHE_HOME", str(home.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "sample_project")
    return home


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rollback_on_the_command_line_says_which_model_is_champion_now(
    shell: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback", "returns", "--reason", "complaints"]) == 0
    said = capsys.readouterr().out
    assert "Rolled back. Model 1 is the champion again, 2 is not. Served now: version 1 of returns" in said
    assert state(shell) == (1, 1, [2])
    assert {row["version"]: row["gate"] for row in answer(capsys, "models", "returns")} == {
        1: "passed",
        2: "rolled_back",
    }


def test_models_rollback_and_diff_on_the_command_line(shell: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    changed = answer(capsys, "models", "diff", "returns", "1", "2")
    assert changed["roc_auc"]["first"] < changed["roc_auc"]["second"]
    assert main(["models", "diff", "returns", "1", "1"]) == 0
    assert "nothing differs" in capsys.readouterr().out
    done = answer(capsys, "models", "rollback", "returns", "--to", "1")
    assert (done["version"], done["champion"], done["resumed"]) == (1, {"from": 2, "to": 1}, False)
    assert main(["models", "rollback", "returns"]) == 3
    assert "first champion" in capsys.readouterr().err


def test_the_command_line_says_that_it_finished_a_rollback_and_doctor_that_one_is_open(
    shell: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from forecache.plugins.doctor.checks import check_rollbacks

    assert check_rollbacks(load_settings()).state == "ok"
    cut_short(shell, "begun", monkeypatch)
    found = check_rollbacks(load_settings())
    assert found.state == "warn"
    assert "returns from model 2 to 1" in found.found
    assert main(["rollback", "returns"]) == 0
    assert "Finished the interrupted rollback. Model 1 is the champion again" in capsys.readouterr().out
    assert check_rollbacks(load_settings()).state == "ok"


def test_the_command_line_says_that_a_pin_set_meanwhile_stays(
    shell: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_short(shell, "begun", monkeypatch)
    assert main(["store", "pin", "returns", "2"]) == 0
    capsys.readouterr()
    assert main(["rollback", "returns"]) == 0
    said = capsys.readouterr().out
    assert "Version 2 was pinned meanwhile and stays pinned: `forecache store unpin returns` serves version 1." in said
    assert "Served now: version 2 of returns" in said


def test_a_rollback_of_the_store_alone_is_one_move(shell: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Store, "move", killed)
        with pytest.raises(Stopped):
            roll_back(shell, PIPELINE, keep_model=True, actor="person")
    assert state(shell) == (2, 2, [])
    assert main(["rollback", "returns", "--keep-model"]) == 0
    assert state(shell) == (2, 1, [2])


def test_a_tampered_champion_is_refused_by_scoring_gate_report_and_column_function(home: Settings) -> None:
    champion = models.champion(home, PIPELINE)
    path = models.verified_folder(home, champion) / "model.onnx"
    original = path.read_bytes()
    stricter = replace(PIPELINE, gate=replace(PIPELINE.gate, floors={"roc_auc": 0.61}))
    # As if the night's features had changed: it has to be scored again.
    append_records(home, [StageRecord("score", "returns", NIGHT, "another", "", -1, 0, 0.0)])
    uses: list[Callable[[], object]] = [
        lambda: score_night(home, PIPELINE),
        lambda: run_gate(home, stricter, 2, actor="judged itself"),
        lambda: run_gate(home, stricter, 1, actor="judged against it"),
        lambda: write_report(home, PIPELINE, 2),
        lambda: plan_scoring("models:/returns@champion"),
        lambda: plan_scoring("models:/returns/2"),
    ]
    path.write_bytes(original + b" ")
    try:
        for use in uses:
            with pytest.raises(CheckError, match=r"version 2 is refused: its file 'model.onnx' does not match"):
                use()
    finally:
        path.write_bytes(original)


def test_a_file_added_to_a_registered_model_is_refused(home: Settings) -> None:
    champion = models.champion(home, PIPELINE)
    added = models.verified_folder(home, champion) / "model.json"
    added.write_text("{}")
    try:
        with pytest.raises(CheckError, match=r"version 2 is refused: its file 'model.json' was added after"):
            models.verified_folder(home, champion)
    finally:
        added.unlink()
