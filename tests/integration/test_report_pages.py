"""The page on one pipeline, model, stream or view: as a file, and in a server; the pages that lead to it."""

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from reader_support import RunningReader, running_reader
from store_tables import NEXT_NIGHT, NIGHT, churn, predictions, scores, write_night

from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.registry.promotions import Promotion, record_promotion
from forecache.plugins.drift.measurements import Measurement, append_measurements
from forecache.serve.reader import create_token
from forecache.serve.store import publish

NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two published dates of churn, with runs, decisions about its model, and figures of drift and quality."""
    settings = load_settings(home=tmp_path_factory.mktemp("report"))
    for night in (NIGHT, NEXT_NIGHT):
        write_night(settings, predictions(scores(50), night=night), night=night)
        publish(settings, churn(), night=night)
        append_records(
            settings,
            [StageRecord("score", "churn", night, f"{night}", "predictions_churn", 1, 50, 3.5, run_id="run")],
        )
    record_promotion(
        settings,
        Promotion(
            recorded_at=NOW - timedelta(hours=1), pipeline="churn", action="gate", actor="ann", from_version=None,
            to_version=1, verdict="passed", reason="churn 1 passed: roc_auc <0.84>.", training_table="t",
            training_version=0,
        ),
        after=None,
    )  # fmt: skip
    days = [(NOW - timedelta(days=ago)).date() for ago in (2, 1)]
    append_measurements(
        settings,
        [
            *(Measurement("churn", day, day, "prediction", "churn_probability", "training split", 1, effect, 50)
              for day, effect in zip(days, (0.02, 0.31), strict=True)),
            *(Measurement("churn", day, day, "performance", "roc_auc", "test split", 1, 0.0, 50, value=value)
              for day, value in zip(days, (0.84, 0.81), strict=True)),
        ],
    )  # fmt: skip
    return settings


@pytest.fixture(scope="module")
def reader(settings: Settings) -> Iterator[RunningReader]:
    with running_reader(settings, project_part=True) as running:
        yield running


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_page_has_runs_versions_decisions_drift_and_quality(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    assert main(["report", "churn", "--output", str(tmp_path / "churn.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["as_of"] for row in found["runs"]] == [str(NEXT_NIGHT), str(NIGHT)]
    assert [(row["version"], row["as_of"], "serving" in row["state"]) for row in found["versions"]] == [
        (2, str(NEXT_NIGHT), True), (1, str(NIGHT), False)
    ]  # fmt: skip
    assert [(row["actor"], row["to"]) for row in found["moves"]] == [("ann", 1)]
    page = (tmp_path / "churn.html").read_text()
    text = text_of(page)
    assert "roc_auc &lt;0.84&gt;" in page, "names and sentences are escaped"
    assert "Drift of churn_probability (PSI to the training split) 0.31" in text
    assert "roc_auc, once labels were known 0.81" in text
    assert "<form" not in page, "a file answers no form"
    assert "http://" not in page.replace("http://www.w3.org/", ""), "nothing comes from elsewhere"


def test_a_page_as_a_file_has_the_answer_for_a_key_and_no_form(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home))
    for key, expected in (("00007", "churn 00007: churn_probability "), ("nobody", "nobody")):
        assert main(["report", "churn", "--key", key, "--output", str(tmp_path / "churn.html")]) == 0
        page = (tmp_path / "churn.html").read_text()
        assert expected in text_of(page)
        assert "<form" not in page


def test_the_page_links_to_dagster_and_mlflow_where_their_addresses_are_known(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dagster, mlflow = "https://dagster.example.org", "https://mlflow.example.org"
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    monkeypatch.setenv("FORECACHE_DAGSTER_PUBLIC_URL", f"{dagster}/")
    monkeypatch.setenv("FORECACHE_MLFLOW_PUBLIC_URL", mlflow)
    assert main(["report", "churn", "--output", str(tmp_path / "churn.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["versions"]
    linked = set(re.findall(r'href="(http[^"]+)"', (tmp_path / "churn.html").read_text()))
    versions = {f"{mlflow}/#/models/churn/versions/{row['model']['version']}" for row in found}
    assert versions
    assert linked == {
        f"{dagster}/assets/predictions_churn", f"{dagster}/runs/run", f"{mlflow}/#/models/churn", *versions
    }  # fmt: skip


def test_an_unknown_name_is_refused_with_the_known_ones(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    assert main(["report", "chur"]) == 3
    assert "Did you mean 'churn'?" in capsys.readouterr().err


def test_the_server_shows_the_page_with_the_answer_for_a_key(reader: RunningReader) -> None:
    page = httpx.get(f"{reader.url}/status/churn", timeout=60)
    assert page.status_code == 200
    assert "form-action 'self'" in page.headers["content-security-policy"]
    assert "Drift of churn_probability" in page.text
    key = "00007"
    explained = text_of(httpx.get(f"{reader.url}/status/churn", params={"key": key}, timeout=60).text)
    answer = httpx.get(f"{reader.url}/v1/churn/{key}").json()
    assert f"churn {key}:" in explained
    assert f"store version {answer['store_version']}" in explained
    missing = text_of(httpx.get(f"{reader.url}/status/churn", params={"key": "none"}, timeout=60).text)
    assert "none" in missing
    assert httpx.get(f"{reader.url}/status/..%2fetc").status_code == 404
    report = httpx.get(f"{reader.url}/status/churn", params={"report": "9"}, timeout=60)
    assert "style-src 'unsafe-inline'" in report.headers["content-security-policy"]
    assert "has no version 9" in text_of(report.text), "no model of it is registered"


def test_a_browser_is_led_to_the_status_and_to_the_interface(reader: RunningReader) -> None:
    led = httpx.get(reader.url, headers={"accept": "text/html"})
    assert (led.status_code, led.headers["location"]) == (303, "status")
    addresses = httpx.get(reader.url).json()
    assert all(httpx.get(f"{reader.url}{path}").status_code == 200 for path in addresses.values())
    icon = httpx.get(f"{reader.url}/favicon.ico")
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")
    page, document = httpx.get(f"{reader.url}/docs").text, httpx.get(f"{reader.url}/openapi.json").json()
    for path, item in document["paths"].items():
        for method in ("get", "post"):
            if method in item:
                assert f"{method.upper()} {path}" in page
    status = httpx.get(f"{reader.url}/status", headers={"accept": "text/html"}).text
    assert 'href="status/churn"' in status


def test_the_page_needs_the_token_that_the_status_needs(settings: Settings, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    scopes = {"scraper": ["+metrics"], "app": ["churn"], "person": ["+metrics", "churn"]}
    given = {name: {"authorization": f"Bearer {create_token(tokens, name, of)[0]}"} for name, of in scopes.items()}
    with running_reader(settings, reader_tokens=str(tokens), project_part=True) as running:
        for name, page, answer in (("", 401, 401), ("app", 403, 403), ("scraper", 200, 403), ("person", 200, 200)):
            headers, at = given.get(name, {}), f"{running.url}/status/churn"
            assert httpx.get(at, headers=headers, timeout=60).status_code == page
            assert httpx.get(at, params={"key": "00007"}, headers=headers, timeout=60).status_code == answer
