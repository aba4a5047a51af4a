"""A rollback killed with SIGKILL at any step is whole or not begun, at the latest after the next command."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rollback_sample import promote_and_die, roll_back_until, two_champions
from sample_project.pipelines.visits import returns
from warm import start

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import rollback_step
from forecache.models.registry import model_versions as models
from forecache.models.registry.promotions import find_unfinished, promotions
from forecache.operations.rollback import recover_interrupted
from forecache.plugins.doctor.checks import check_rollbacks
from forecache.serve.store import open_store

pytestmark = [pytest.mark.faults, pytest.mark.slow]

STEPS = rollback_step.names


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = load_settings(home=tmp_path_factory.mktemp("kills") / "home")
    two_champions(settings)
    return settings.home_path


@pytest.mark.parametrize("step", STEPS[1:-1])
def test_a_pin_between_the_kill_and_the_command_that_finishes_it_stays(
    settings: Settings, prepared: Path, step: str
) -> None:
    shutil.copytree(prepared, settings.home_path)
    killed(roll_back_until, settings, step)
    store = open_store(settings, "returns")
    store.pin(2)
    recover_interrupted(settings, returns)
    assert (store.pointer().current, store.pointer().pinned) == (1, 2)
    assert models.champion(settings, returns).version == 1


@pytest.mark.parametrize("moved_before", [False, True])
def test_a_promotion_killed_after_its_first_row_is_finished_by_the_next_command(
    settings: Settings, prepared: Path, moved_before: bool
) -> None:
    shutil.copytree(prepared, settings.home_path)
    killed(promote_and_die, settings, moved_before)
    assert models.champion(settings, returns).version == (1 if moved_before else 2)
    found = check_rollbacks(load_settings(home=settings.home_path, project="sample_project"))
    assert "promote of returns from model 2 to 1" in found.found
    recover_interrupted(settings, returns)
    assert models.champion(settings, returns).version == 1
    assert models.model_version(settings, returns, 2).gate == "passed"  # nobody rolled back from it
    assert open_store(settings, "returns").blocked_versions() == {}
    assert [entry.verdict for entry in promotions(settings, "returns")][-2:] == ["begun", "passed"]
    assert recover_interrupted(settings, returns) is None


def killed(target: Callable[..., None], settings: Settings, when: object) -> None:
    """Run what kills itself in a process of its own."""
    process = start(target, settings.home_path, when)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def moved(settings: Settings) -> tuple[bool, bool]:
    """Whether the model and whether what is served are the older ones."""
    served = open_store(settings, "returns").current()
    assert served is not None
    return models.champion(settings, returns).version == 1, served.provenance.model_version == 1


@pytest.mark.parametrize("step", STEPS)
def test_a_rollback_killed_at_any_step_has_moved_both_or_none_after_the_next_command(
    settings: Settings, prepared: Path, step: str
) -> None:
    shutil.copytree(prepared, settings.home_path)
    killed(roll_back_until, settings, step)
    begun = STEPS.index(step) >= STEPS.index("begun")
    ended = step == "recorded"
    assert (find_unfinished(promotions(settings, "returns")) is not None) == (begun and not ended)
    # What is served moves last: never the newer champion beside the older predictions.
    assert moved(settings) == tuple(STEPS.index(step) >= STEPS.index(s) for s in ("champion moved", "pointer moved"))
    found = check_rollbacks(load_settings(home=settings.home_path, project="sample_project"))
    assert (found.state == "warn") == (begun and not ended)
    assert ("returns from model 2 to 1" in found.found) == (begun and not ended)
    with open_store(settings, "returns").snapshot() as snapshot:  # readers have one whole version at all times
        assert len(dict(snapshot.items())) == snapshot.manifest.rows
    done = recover_interrupted(settings, returns)
    assert (done is not None) == (begun and not ended)
    assert moved(settings) == (begun, begun)
    store = open_store(settings, "returns")
    assert sorted(store.blocked_versions()) == ([2] if begun else [])
    assert models.model_version(settings, returns, 2).gate == ("rolled_back" if begun else "passed")
    verdicts = [entry.verdict for entry in promotions(settings, "returns")]
    assert verdicts == ["passed", "passed"] + (["begun", "passed"] if begun else [])
    assert recover_interrupted(settings, returns) is None
