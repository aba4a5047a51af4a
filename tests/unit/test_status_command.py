"""`forecache status`: the nights of the ledger, the text on 80 columns, and which alerts are open."""

import socket
import threading
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from status_documents import document, model_row, stream_row, version_row

from forecache.base.errors import InputError, UnavailableError
from forecache.base.settings import load_settings
from forecache.plugins.status import command as command
from forecache.plugins.status import project_status as nights
from forecache.plugins.status.command import ask_status, token_from
from forecache.plugins.status.project_status import MOST_NIGHTS, last_nights, night_rows
from forecache.plugins.status.sidecar import attention_of
from forecache.plugins.status.status_text import WIDTH, format_status, format_table

NOW = datetime(2026, 11, 27, 3, 0, tzinfo=timezone.utc)


def row(stage: str, subject: str = "churn", night: int | None = 26, ended_min: int = 60, **more: Any) -> dict[str, Any]:
    as_of = None if night is None else date(2026, 11, night)
    ended = NOW - timedelta(minutes=ended_min)
    return {
        "stage": stage,
        "subject": subject,
        "as_of": as_of,
        "rows": 10,
        "run_id": "run",
        "seconds": 2.5,
        "recorded_at": ended,
        **more,
    }


def test_a_night_has_its_stages_in_the_order_of_their_ends() -> None:
    found = night_rows(
        [row("publish", ended_min=10, rows=7), row("score", ended_min=30), row("train", night=None)], NOW
    )
    assert found == [
        {"as_of": "2026-11-26", "subject": "churn", "run_id": "run", "stages": ["score", "publish"], "rows": 7,
         "seconds": 5.0, "ended_at": "2026-11-27T02:50:00Z", "ended_s_ago": 600}
    ]  # fmt: skip


def test_rows_are_those_that_a_stage_made_and_not_those_of_a_sample_or_a_report() -> None:
    stages = ("score", 40, 23_570), ("check", 30, 5), ("drift_report", 20, 20_000), ("monitoring", 10, 35)
    rows = [row(stage, ended_min=ended_min, rows=number) for stage, ended_min, number in stages]
    assert [each["rows"] for each in night_rows(rows, NOW)] == [23_570]
    assert [each["rows"] for each in night_rows(rows[1:], NOW)] == [35]


def test_of_a_stage_that_was_done_again_the_last_counts() -> None:
    found = night_rows(
        [row("score", ended_min=90), row("publish", ended_min=80), row("score", ended_min=5, rows=9)], NOW
    )
    assert [(each["stages"], each["rows"], each["seconds"]) for each in found] == [(["publish", "score"], 9, 5.0)]


def test_the_newest_nights_come_first_and_no_more_than_fit() -> None:
    rows = [row("score", subject, night) for night in range(1, 27) for subject in ("spend", "churn")]
    found = night_rows(rows, NOW)
    assert len(found) == 2 * MOST_NIGHTS
    assert [(each["as_of"][-2:], each["subject"]) for each in found[:3]] == [
        ("26", "churn"), ("26", "spend"), ("25", "churn"),
    ]  # fmt: skip


def test_where_the_ledger_is_not_here_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not here" in last_nights(load_settings(home=tmp_path), NOW)["why"]
    assert "object store" in last_nights(load_settings(home=tmp_path, lake="s3://lake/prod"), NOW)["why"]
    monkeypatch.setattr(nights, "find_spec", lambda name: None)
    assert "forecache[lake]" in last_nights(load_settings(home=tmp_path), NOW)["why"]


def shown(**more: Any) -> str:
    status = {
        "attention": [], "url": "http://127.0.0.1:8080", "reader": document(), "why_no_reader": "",
        "project": {"nights": {"rows": night_rows([row("score")], NOW), "why": ""}, "versions": [], "releases": [],
                    "streams": [stream_row()]},
    }  # fmt: skip
    return format_status(status | more)


def test_nothing_is_wider_than_a_terminal() -> None:
    long = "a_pipeline_with_a_name_that_goes_on_and_on_for_sixty_characters"
    attention = [
        {"severity": "critical", "what": f"{long} is stale. " * 3, "remedy": f"Run `forecache run {long}`. " * 3}
    ]
    reader = document(versions=[version_row(name=long), version_row()], models=[model_row(name=long), model_row()])
    text = shown(attention=attention, reader=reader)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.startswith("!! ")
    assert len(shown().splitlines()[0]) < WIDTH


def test_the_text_has_what_the_page_has() -> None:
    text = " ".join(shown().split())
    for part in ("All is well.", "2 of 2 workers", "p99 400 µs", "churn", "99.90 %", "search", "model 99.0 %",
                 "without the model: deadline 9", "search: drift: price moved the most, PSI 0.12",
                 "LAST RUNS", "2026-11-26",
                 "STREAMS", "2,004 /s", "6.10 ms, 142 ms", "0.6 s ago",
                 "cards: live layer customer: 4,987 rows, all applied, verified 41 s ago",
                 "cards: live layer terminal: 9,000 rows, 3 versions behind, not verified",
                 "cards: live layer cards: nothing applied here"):  # fmt: skip
        assert part in text, part
    assert "search: drift: not measured" in shown(reader=document(models=[model_row(drift=[])]))


def test_a_project_without_a_reader_shows_what_its_stores_say() -> None:
    project = {
        "nights": {"rows": [], "why": "The stage ledger is not here."},
        "versions": [{"name": "churn", "version": 7, "pinned": True, "as_of": "2026-11-26", "age_s": 9000,
                      "stale": True, "no_alert": "", "keys": 2357, "published_s_ago": 100}],
        "streams": [], "releases": [{"name": "search", "release": 3, "model": {"name": "search", "version": 2},
                      "created_at": "2026-11-27T01:04:10Z"}],
    }  # fmt: skip
    text = shown(reader=None, why_no_reader="No reader answers at http://127.0.0.1:8080.", project=project)
    for part in ("No reader answers", "7 pinned", "stale", "RELEASES", "search 2", "The stage ledger is not here."):
        assert part in text, part


def test_columns_line_up() -> None:
    assert list(format_table(("name", "keys"), [("a", "1,000"), ("long", "7")], right=(1,))) == [
        "name   keys", "a     1,000", "long      7",
    ]  # fmt: skip


def test_many_open_alerts_are_counted() -> None:
    alert = {"severity": "info", "summary": "It failed.", "title": "Check failed", "since": "2026-11-27 02:00"}
    found = attention_of([alert] * 11)
    assert len(found) == 9
    assert found[-1].what == "3 more alerts are open."
    assert found[0].remedy == "Open alert (check failed) since 2026-11-27 02:00 UTC."


def test_what_is_no_reader_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no address"):
        ask_status("file:///etc/passwd")
    with pytest.raises(UnavailableError, match="No reader answers"):
        ask_status("http://127.0.0.1:1")
    (tmp_path / "empty").touch()
    for name, said in (("empty", "is empty"), ("missing", "cannot be read")):
        with pytest.raises(InputError, match=said):
            token_from(tmp_path / name)


def test_what_does_not_speak_http_is_no_reader() -> None:
    def greet(listener: socket.socket) -> None:
        asked, _ = listener.accept()
        with asked:
            asked.recv(4096)
            asked.sendall(b"SSH-2.0-server\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet, args=(listener,))
        thread.start()
        with pytest.raises(UnavailableError, match="No reader answers at .*: SSH-2.0-server."):
            ask_status(f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    with pytest.raises(UnavailableError, match="nonnumeric port"):
        ask_status("http://127.0.0.1:port")


def test_a_reader_that_listens_everywhere_is_asked_here() -> None:
    assert [command._reachable_host(host) for host in ("0.0.0.0", "::", "::1", "10.1.2.3")] == [
        "127.0.0.1", "127.0.0.1", "[::1]", "10.1.2.3",
    ]  # fmt: skip
