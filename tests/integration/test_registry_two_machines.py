"""Decisions about one model on two machines at once: two processes with homes of their own, one lake and one MLflow.

In a folder that both machines see the ledger alone decides between them; in a bucket there is a lease besides.
Each process stops where the test says, so that the other one decides at the instant between judging and promoting.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import registry_sample as sample
from sample_project.pipelines.visits import returns
from store_services import minio_server
from training_sample import write_training_set

from forecache.base.errors import CheckError, ConflictError
from forecache.base.settings import Settings, load_settings
from forecache.kit import lease
from forecache.kit.lease import local_lease
from forecache.models.registry import alias_moves as moves
from forecache.models.registry import model_versions as models
from forecache.models.registry.alias_moves import finish_move
from forecache.models.registry.promotions import promotions, record_promotion
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.tracking.client import connect_mlflow
from forecache.operations.rollback import recover_interrupted, roll_back_model
from forecache.plugins.challengers.shadow import dismiss_challenger, name_challenger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BETTER = (-0.03, 0.0, 0.8, 0.7, 0.05)
TERM_S = 9.0
"""Term of a lease in tests of one that is taken over; its margin is taken off."""

_MACHINE = """
import json, sys
from dataclasses import replace
import registry_sample as sample
from sample_project.pipelines.visits import returns
from forecache.base.errors import ForecacheError
from forecache.operations.rollback import roll_back_model
from forecache.kit import lease
from forecache.kit.lease import local_lease
from forecache.models.registry import alias_moves as moves
from forecache.models.registry import run_gate as gate
from forecache.models.registry import register as registration
from forecache.base.settings import load_settings
from forecache.base.steps import rollback_step
from forecache.kit import lease

settings, todo = load_settings(), json.loads(sys.argv[1])

lease.TERM_S, lease.MARGIN_S, lease.LEASE = todo.get("term_s", 30.0), 0.5, replace(lease.LEASE, every_s=0.5)

def report(message, share):
    if message.startswith("waiting for"):
        print(json.dumps(["waiting"]), flush=True)

def stop(*said):
    print(json.dumps(said), flush=True)
    sys.stdin.readline()

def stop_before(module, name):
    honest = getattr(module, name)
    def stopped(*arguments, **more):
        stop(name)
        setattr(module, name, honest)
        return honest(*arguments, **more)
    setattr(module, name, stopped)

for module, name in todo["stops"]:
    stop_before({"registration": registration, "gate": gate, "moves": moves}[module], name)
rollback_step.on_step = lambda name: stop(name) if name == todo.get("step") else None
try:
    if "weights" in todo:
        training = sample.made_up_training(settings, returns, tuple(todo["weights"]), training_version=2)
        registered = registration.register_trained_model(settings, returns, training, progress=report)
        version = registered.details["model_version"]
        verdict = gate.run_gate(settings, returns, version, actor="machine")
        print(json.dumps([version, verdict.passed, verdict.line, verdict.champion_after]), flush=True)
    elif "promote" in todo:
        moves.promote_version(settings, returns, todo["promote"], actor="machine")
        print(json.dumps(["promoted"]), flush=True)
    else:
        roll_back_model(settings, returns, actor="machine")
        print(json.dumps(["rolled back"]), flush=True)
except ForecacheError as error:
    print(json.dumps([type(error).__name__, str(error)]), flush=True)
"""


class Machine:
    """A process with a home of its own that stops before each of some functions."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def said(self) -> list[Any]:
        """What it says next: where it stops, or how it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it has ended without a word"
        return list(json.loads(line))

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a training set and an MLflow in which version 1 is the champion, to be copied."""
    settings = _settings(tmp_path_factory.mktemp("machines") / "prepared", "first")
    _prepare(settings)
    return settings.home_path.parent


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Settings]:
    """The same in a bucket, as a machine sees it that looks at what became of it."""
    with minio_server(tmp_path / "minio", "cloud") as options:
        settings = _settings(tmp_path / "shared", "here", lake="s3://cloud/lake", storage_options=options)
        _prepare(settings)
        yield settings


def _prepare(settings: Settings) -> None:
    write_training_set(settings, returns)
    training = sample.made_up_training(settings, returns, sample.SLIGHTLY_WORSE, training_version=2)
    register_trained_model(settings, returns, training)
    assert run_gate(settings, returns, 1, actor="test").champion_after == 1


def _settings(folder: Path, home: str, **differs: Any) -> Settings:
    fields: dict[str, Any] = {
        "home": folder / home,
        "project": "sample_project",
        "lake": str(folder / "lake"),
        "mlflow_uri": f"sqlite:///{folder}/mlflow.db",
        "mlflow_artifacts": (folder.with_name("artifacts")).as_uri(),
    }
    return load_settings(**{**fields, **differs})


@pytest.fixture
def shared(prepared: Path, request: pytest.FixtureRequest) -> Path:
    """A lake and an MLflow for one test; artifacts stay beside, as MLflow names them by their place."""
    return Path(shutil.copytree(prepared, prepared.with_name(f"shared-{abs(hash(request.node.name))}")))


@pytest.fixture
def here(shared: Path) -> Settings:
    """A third machine, which looks at what became of it."""
    return _settings(shared, "here")


@contextmanager
def machines(shared: Path, *todos: dict[str, Any], **differs: Any) -> Iterator[list[Machine]]:
    path = os.pathsep.join(path for path in sys.path if path)
    with ExitStack() as stack:
        started = []
        for number, todo in enumerate(todos):
            settings = _settings(shared, todo.get("home", f"machine-{number}"), **differs)
            environment = {
                **os.environ,
                "FORECACHE_HOME": str(settings.home_path),
                "FORECACHE_PROJECT": "sample_project",
                "FORECACHE_LAKE": settings.lake,
                "FORECACHE_STORAGE_OPTIONS": json.dumps(settings.storage_options),
                "FORECACHE_MLFLOW_URI": settings.mlflow_uri,
                "FORECACHE_MLFLOW_ARTIFACTS": settings.mlflow_artifacts,
                "PYTHONPATH": path,
            }
            process = subprocess.Popen(
                [sys.executable, "-c", _MACHINE, json.dumps(todo)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(Machine(process))
        yield started


def moved(settings: Settings) -> list[tuple[str, int | None, int | None, str]]:
    rows = promotions(settings, returns.name)
    return [(row.action, row.from_version, row.to_version, row.verdict) for row in rows]


def aliases(settings: Settings) -> dict[str, int]:
    return {alias: v.version for v in models.list_models(settings, returns) for alias in v.aliases}


TWICE_AT_ONCE = {"weights": BETTER, "stops": [("registration", "_log_and_register"), ("gate", "_record_decision")]}


def test_one_of_two_equal_versions_is_promoted_and_the_other_machine_takes_it_over(
    shared: Path, here: Settings
) -> None:
    with machines(shared, TWICE_AT_ONCE, TWICE_AT_ONCE) as (first, second):
        for where in ("_log_and_register", "_record_decision"):
            for each in (first, second):
                assert each.said() == [where]
                if where == "_log_and_register":
                    each.go_on()
        first.go_on()
        version, passed, _, after = first.said()
        assert (passed, after) == (True, version)
        second.go_on()
        twin, passed, line, after = second.said()
    assert {version, twin} == {2, 3}
    assert (passed, after) == (True, version)
    assert line == (f"returns {twin} passed: version {version}, which has the same inputs and weights, is the champion")
    assert moved(here) == [("gate", None, 1, "passed"), ("gate", 1, version, "passed")]
    assert aliases(here) == {"champion": version, "previous": 1}
    assert run_gate(here, returns, twin, actor="nightly").champion_after == version
    with pytest.raises(ConflictError, match=f"same inputs and weights as version {version}, which is the champion"):
        moves.promote_version(here, returns, twin, actor="person")
    with pytest.raises(CheckError, match=f"same inputs and weights as version {version}"):
        name_challenger(here, returns, twin)
    assert moved(here) == [("gate", None, 1, "passed"), ("gate", 1, version, "passed")]

    back = roll_back_model(here, returns, actor="person").entry
    assert back is not None
    assert (back.from_version, back.to_version) == (version, 1)
    run_gate(here, returns, twin, actor="nightly")
    assert aliases(here)["champion"] == 1


def test_a_version_is_judged_against_the_champion_that_another_machine_promoted_at_that_instant(
    shared: Path, here: Settings
) -> None:
    worse = {"weights": (-0.03, 0.0, 0.8, 0.7, 0.5), "stops": [("gate", "_record_decision")]}
    with machines(shared, worse) as (slow,):
        assert slow.said() == ["_record_decision"]  # it has passed against champion 1
        training = sample.made_up_training(here, returns, sample.GOOD, training_version=2)
        assert register_trained_model(here, returns, training).details["model_version"] == 3
        assert run_gate(here, returns, 3, actor="test").champion_after == 3
        slow.go_on()
        version, passed, line, after = slow.said()
    assert (version, passed, after) == (2, False, 3)
    assert "worse than champion 3" in line
    assert moved(here)[1:] == [("gate", 1, 3, "passed"), ("gate", 3, 3, "failed")]
    assert aliases(here) == {"champion": 3, "previous": 1}


@pytest.mark.parametrize("is_killed", [True, False])
def test_the_aliases_follow_the_ledger_of_a_machine_that_stops_between_them(
    shared: Path, here: Settings, is_killed: bool
) -> None:
    with machines(shared, {"weights": BETTER, "stops": [("gate", "finish_move")]}) as (stopped,):
        assert stopped.said() == ["finish_move"]
        if is_killed:
            stopped.kill()
        assert moved(here)[1:] == [("gate", 1, 2, "passed")]
        assert aliases(here)["champion"] == 1
        training = sample.made_up_training(here, returns, sample.GOOD, training_version=2)
        assert register_trained_model(here, returns, training).details["model_version"] == 3
        verdict = run_gate(here, returns, 3, actor="test")
        assert (verdict.champion_before, verdict.champion_after) == (2, 3)
        if not is_killed:
            stopped.go_on()
            assert stopped.said()[0] == 2
    assert moved(here)[1:] == [("gate", 1, 2, "passed"), ("gate", 2, 3, "passed")]
    assert aliases(here)["champion"] == 3


def test_a_rollback_that_was_planned_before_another_decision_moves_nothing(shared: Path, here: Settings) -> None:
    def promoted(weights: tuple[float, ...]) -> int:
        training = sample.made_up_training(here, returns, weights, training_version=2)
        version = int(register_trained_model(here, returns, training).details["model_version"])
        assert run_gate(here, returns, version, actor="test").champion_after == version
        return version

    assert promoted(BETTER) == 2
    with machines(shared, {"stops": [], "step": "planned"}) as (slow,):
        assert slow.said() == ["planned"]
        assert promoted(sample.GOOD) == 3
        slow.go_on()
        kind, sentence = slow.said()
    assert kind == "OtherDecisionError"
    assert sentence.startswith(
        "Another decision about model 'returns' was recorded meanwhile: gate by test, champion 3."
    )
    assert moved(here)[1:] == [("gate", 1, 2, "passed"), ("gate", 2, 3, "passed")]
    assert aliases(here) == {"champion": 3, "previous": 2}


def test_a_rollback_that_another_machine_finishes_is_closed_once_and_others_wait_for_it(
    shared: Path, here: Settings
) -> None:
    training = sample.made_up_training(here, returns, BETTER, training_version=2)
    register_trained_model(here, returns, training)
    run_gate(here, returns, 2, actor="test")
    with machines(shared, {"stops": [], "step": "begun"}) as (slow,):
        assert slow.said() == ["begun"]
        with pytest.raises(ConflictError, match="A rollback of model 'returns' to version 1 by machine is under way"):
            moves.promote_version(here, returns, 2, actor="person")
        with pytest.raises(ConflictError, match="is under way on another machine, or was interrupted"):
            run_gate(here, returns, 2, actor="nightly")
        recovered = recover_interrupted(here, returns)
        assert recovered is not None
        slow.go_on()
        assert slow.said() == ["rolled back"]
    assert moved(here)[2:] == [("rollback", 2, 1, "begun"), ("rollback", 2, 1, "passed")]
    assert aliases(here)["champion"] == 1


def test_a_promotion_that_was_decided_on_another_champion_moves_nothing(shared: Path, here: Settings) -> None:
    for weights in (BETTER, sample.GOOD):
        training = sample.made_up_training(here, returns, weights, training_version=2)
        version = int(register_trained_model(here, returns, training).details["model_version"])
        run_gate(here, returns, version, actor="test")
    roll_back_model(here, returns, actor="person")
    with machines(shared, {"promote": 3, "stops": [("moves", "record_promotion")]}) as (slow,):
        assert slow.said() == ["record_promotion"]
        roll_back_model(here, returns, actor="person")
        slow.go_on()
        assert slow.said()[0] == "OtherDecisionError"
    assert aliases(here)["champion"] == 1
    assert moved(here)[-1] == ("rollback", 2, 1, "passed")


def test_a_rollback_skips_a_twin_of_the_champion_that_was_promoted_once(shared: Path, here: Settings) -> None:
    numbers = []
    for home in ("here", "other"):
        settings = _settings(shared, home)
        training = sample.made_up_training(settings, returns, BETTER, training_version=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("forecache.models.registry.register.find_registered", lambda *_: None)
            numbers.append(int(register_trained_model(settings, returns, training).details["model_version"]))
    assert numbers == [2, 3]
    for number in numbers:  # as two machines promoted both before the ledger decided between them
        entry = moves.describe_move(
            here, returns, models.model_version(here, returns, number), action="gate", actor="test"
        )
        record_promotion(here, entry, after=promotions(here, returns.name)[-1])
        finish_move(here, returns, entry, local_lease("registry/returns", "testing"))
    with pytest.raises(ConflictError, match="version 2 has the same weights as the champion, version 3"):
        roll_back_model(here, returns, to=2, actor="person")
    roll_back_model(here, returns, actor="person")
    assert aliases(here)["champion"] == 1


def _place_of(settings: Settings) -> dict[str, Any]:
    return {"lake": settings.lake, "storage_options": settings.storage_options}


def test_two_machines_that_trained_the_same_at_once_register_one_version(cloud: Settings) -> None:
    first_todo = {"weights": BETTER, "stops": [("registration", "_log_and_register")]}
    second_todo = {"weights": BETTER, "stops": [], "home": "second"}
    shared = cloud.home_path.parent
    with machines(shared, first_todo, **_place_of(cloud)) as (first,):
        assert first.said() == ["_log_and_register"]
        with machines(shared, second_todo, **_place_of(cloud)) as (second,):
            assert second.said() == ["waiting"]
            first.go_on()
            ended = [first.said(), second.said()]
    assert [(version, passed, after) for version, passed, _, after in ended] == [(2, True, 2)] * 2
    assert [version.version for version in models.list_models(cloud, returns)] == [2, 1]
    assert moved(cloud) == [("gate", None, 1, "passed"), ("gate", 1, 2, "passed")]
    assert aliases(cloud) == {"champion": 2, "previous": 1}


@pytest.mark.parametrize("function", ["record_promotion", "finish_move"])
def test_a_machine_that_stood_still_for_longer_than_its_term_promotes_nothing_and_moves_no_alias(
    cloud: Settings, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setattr(lease, "TERM_S", TERM_S)
    monkeypatch.setattr(lease, "MARGIN_S", 0.5)
    monkeypatch.setattr(lease, "LEASE", replace(lease.LEASE, every_s=0.5))
    training = sample.made_up_training(cloud, returns, BETTER, training_version=2)
    register_trained_model(cloud, returns, training)
    connect_mlflow(cloud).set_model_version_tag(returns.name, "2", "gate", "passed")
    todo = {"promote": 2, "stops": [("moves", function)], "term_s": TERM_S}
    with machines(cloud.home_path.parent, todo, **_place_of(cloud)) as (slow,):
        assert slow.said() == [function]
        slow.send(signal.SIGSTOP)
        if function == "record_promotion":
            assert dismiss_challenger(cloud, returns) is None  # a decision that is in no ledger takes the lease over
        else:
            assert aliases(cloud)["champion"] == 1
            assert recover_interrupted(cloud, returns) is not None
        rows, there = moved(cloud), aliases(cloud)
        slow.send(signal.SIGCONT)
        slow.go_on()
        kind, sentence = slow.said()
    assert (kind, "'registry/returns'" in sentence) == ("LeaseLostError", True)
    assert (moved(cloud), aliases(cloud)) == (rows, there)
    assert there["champion"] == (1 if function == "record_promotion" else 2)
