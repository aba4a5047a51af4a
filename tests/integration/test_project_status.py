"""What `forecache status` says of the stores of a project, with no reader running."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from reader_support import churn_rows, running_reader, write_version, yesterday
from store_tables import NEXT_NIGHT, NIGHT, churn, predictions, scores, write_night

from forecache.base.settings import Settings
from forecache.cli.main import main
from forecache.declare import load_pipeline
from forecache.plugins.alerts.journal import journal_path
from forecache.plugins.exporter.batch_page import batch_page
from forecache.plugins.status.project_status import project_status
from forecache.plugins.status.sidecar import ProjectStatusExtension
from forecache.realtime.log.spool_files import CommitterState, write_state
from forecache.serve.store import publish


def test_a_stale_version_needs_attention_unless_it_is_the_last_or_nobody_declares_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    end = load_pipeline(settings, "churn").end
    assert end is not None
    write_version(settings.store_path, "churn", churn_rows(3), as_of=str(end - timedelta(days=1)))
    write_version(settings.store_path, "removed", churn_rows(3), as_of=str(end))
    write_version(settings.store_path, "removed_lately", churn_rows(3), as_of=yesterday())
    found = project_status(settings)
    assert {row["name"]: (row["stale"], row["no_alert"]) for row in found["versions"]} == {
        "churn": (True, ""),
        "removed": (True, "undeclared"),
        "removed_lately": (False, ""),
    }
    assert [each["what"].split(",")[0] for each in found["attention"]] == ["Version 1 of churn"]

    write_version(settings.store_path, "churn", churn_rows(3), as_of=str(end), source_end=str(end))
    found = project_status(settings)
    assert found["versions"][0] | {"stale": True, "no_alert": "ended"} == found["versions"][0]
    assert found["attention"] == []

    monkeypatch.setenv("FORECACHE_HOME", str(settings.home))
    monkeypatch.setenv("FORECACHE_READER_PORT", "1")
    assert main(["status"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("All is well. No reader answers")
    assert "Stale, but nothing is wrong: these have the last data of their sources: churn." in text
    assert "Stale, but no alert: no module of the project that can be loaded declares removed." in text


def publish_until(settings: Settings, end: date) -> None:
    [source] = churn().sources
    publish(settings, churn(sources=(replace(source, end=end),)))


def test_the_last_version_of_ended_sources_is_well_with_a_reader_and_without(settings: Settings) -> None:
    write_night(settings, predictions(scores(3)))
    publish_until(settings, NIGHT)
    with running_reader(settings, reader_workers=1) as reader:
        [row] = (document := httpx.get(f"{reader.url}/status.json").json())["versions"]
        assert (row["state"], row["stale"], row["overdue"]) == ("stale", True, False)
        assert (document["state"], document["attention"]) == ("well", [])
    assert project_status(settings)["attention"] == []
    assert 'stale_after_timestamp_seconds{pipeline="churn"}' not in batch_page(settings)

    publish_until(settings, NEXT_NIGHT)
    with running_reader(settings, reader_workers=1) as reader:
        document = httpx.get(f"{reader.url}/status.json").json()
        assert [each["what"].partition(":")[0] for each in document["attention"]] == ["churn is stale"]
    assert [each["what"].split(",")[0] for each in project_status(settings)["attention"]] == ["Version 2 of churn"]
    assert 'stale_after_timestamp_seconds{pipeline="churn"}' in batch_page(settings)


def test_a_project_that_cannot_be_imported_is_said_once(settings: Settings) -> None:
    settings = settings.model_copy(update={"project": "no_such_project"})
    write_version(settings.store_path, "churn", churn_rows(3), as_of="2026-01-01")
    found = project_status(settings)
    assert ["no_such_project" in each["what"] for each in found["attention"]] == [True]
    assert [(row["stale"], row["no_alert"]) for row in found["versions"]] == [(True, "")]


def test_a_journal_of_alerts_that_cannot_be_read_is_a_problem_and_hides_nothing_else(settings: Settings) -> None:
    logs = settings.request_log_path / "search"
    logs.mkdir(parents=True)
    write_state(logs, CommitterState(lost_damaged=2))
    write_version(settings.store_path, "churn", churn_rows(3))
    assert project_status(settings)["attention"] == []
    journal = Path(journal_path(settings))
    assert not journal.exists(), "to look at the status writes nothing"

    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"no journal" * 100)
    found = project_status(settings)
    said = [each["what"] for each in found["attention"]]
    assert [f"The journal of alerts {journal} cannot be read" in each for each in said] == [True]
    assert [row["name"] for row in found["versions"]] == ["churn"]


def test_the_page_says_that_open_alerts_are_not_known(settings: Settings, tmp_path: Path) -> None:
    context: Any = None
    part, history = ProjectStatusExtension(tmp_path, context), context
    assert part.status(history)[1] == []
    journal = Path(journal_path(settings))
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b"no journal" * 100)
    environment = {**os.environ, "FORECACHE_HOME": str(settings.home)}
    command = [sys.executable, "-m", "forecache.plugins.status.sidecar"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    assert str(journal).encode() in done.stderr
    (tmp_path / "project.json").write_bytes(done.stdout)
    part.poll_changes(lambda action: action())
    shown, attention = part.status(history)
    assert shown["alerts"] == []
    assert "is not here" in shown["nights"]["why"]
    assert [each.what for each in attention] == ["Open alerts are not known."]
