"""`drift`, `challenge` and `shadow` on a real registry and real tables."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
import registry_sample as sample
from sample_project.pipelines.visits import returns
from scoring_support import NIGHT, features_table, write_features
from training_sample import sample_rows, write_training_set

from forecache.base.settings import Settings
from forecache.cli import main as cli
from forecache.models.registry.model_versions import list_models
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.plugins.challengers.shadow import find_challenger
from forecache.plugins.drift.measurements import measurements
from forecache.plugins.drift.monitor import monitor
from forecache.plugins.drift.orchestration import drift_view
from forecache.plugins.drift.prediction_drift import check_drift
from forecache.scoring.run import score

SUPPORT = Path(__file__).parent.parent / "support"


@pytest.fixture
def scored(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A champion and another version of `returns`, and a night that the champion scored."""
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "sample_project")
    write_training_set(settings, returns)
    for weights in (sample.GOOD, sample.SLIGHTLY_WORSE):
        training = sample.made_up_training(settings, returns, weights, training_version=2)
        register_trained_model(settings, returns, training)
    assert run_gate(settings, returns, 1, actor="test").passed
    rows = sample_rows(returns, 400).drop_columns(["split", "as_of", returns.label.name])
    dated = rows.add_column(1, "as_of", features_table(rows.num_rows, num_features=1, night=NIGHT)["as_of"])
    write_features(settings, returns, [dated])
    score(settings, returns, [NIGHT], engine="arrow")
    return settings


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_drift_is_told_in_words_and_figures_and_a_challenger_is_named_scored_and_dismissed(
    scored: Settings, capsys: pytest.CaptureFixture[str], spark: object
) -> None:
    told = answer(capsys, "drift", "returns")
    assert (told["as_of"], told["level"], told["model_version"]) == (str(NIGHT), "none", 1)
    assert told["distances"]["test split"]["psi"] < 0.1
    assert cli.main(["drift", "returns"]) == 0
    assert "return_probability is where it was" in capsys.readouterr().out
    assert cli.main(["drift", "returns", "--date", str(NIGHT + timedelta(days=1))]) == 3

    assert cli.main(["shadow", "returns"]) == 3
    assert "Pipeline 'returns' has no challenger." in capsys.readouterr().err
    assert cli.main(["challenge", "returns"]) == 2
    assert cli.main(["challenge", "returns", "1"]) == 6
    assert answer(capsys, "challenge", "returns", "2") == {"pipeline": "returns", "challenger": 2}
    result = answer(capsys, "shadow", "returns")
    assert result["table"] == "predictions_returns_challenger"
    assert result["details"]["comparison"]["rows"] == result["rows"] == 1600
    assert cli.main(["shadow", "returns"]) == 0
    assert "returns@2 against returns@1" in capsys.readouterr().out
    assert answer(capsys, "challenge", "returns", "--stop") == {"pipeline": "returns", "challenger": None}
    assert find_challenger(scored, returns) is None
    assert len(list_models(scored, returns)) == 2


@pytest.mark.slow
def test_the_page_the_command_the_check_and_the_monitor_have_one_psi_of_the_score(
    scored: Settings, capsys: pytest.CaptureFixture[str], spark: object
) -> None:
    command = answer(capsys, "drift", "returns", "--report")
    psi = command["distances"]["test split"]["psi"]
    row = re.search(
        r"return_probability</td>\s*<td[^>]*>([\d.,]+)</td>.*?<td><span[^>]*>([\w ]+)</span>",
        Path(command["report"]).read_text(),
        re.DOTALL,
    )
    assert row is not None
    assert row.groups() == (f"{psi:.4f}", command["distances"]["test split"]["level"])
    check = drift_view(check_drift(scored, returns, [NIGHT])[NIGHT])
    monitor(scored, returns, [NIGHT])
    monitored = [each.effect for each in measurements(scored, "returns") if each.reference == "test split"]
    assert check["test_split_psi"] == psi
    assert psi in monitored
