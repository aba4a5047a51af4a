"""OpenLineage events on their way: sent once, held up by no receiver, lost by no kill, and sent again when asked."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from alert_receivers import Receiver, receiver
from lineage_sample import JOBS, NIGHTS, RUN, events_in, plain, with_file, write_lake
from openlineage.client import OpenLineageClient
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport
from openlineage_valid import client_event
from reader_support import churn_rows, write_version

from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.lake.ingest.ingested_files import IngestedFile, record_files
from forecache.lake.ledger import StageRecord, append_records
from forecache.plugins.lineage.emit import EmitResult, emit_again, emit_new, recorded_facts
from forecache.serve.store import open_store
from forecache.serve.store.push_pull import push


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return write_lake(tmp_path / "home")


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def test_a_server_gets_what_the_official_client_would_send_it(home: Settings, there: Receiver) -> None:
    settings = home.model_copy(update={"openlineage_url": f"{there.url}/", "openlineage_api_key": "key-secret"})
    assert emit_new(settings)[0].reason == ""
    ours = list(there.posted)
    assert {each.path for each in ours} == {"/api/v1/lineage"}
    config = HttpConfig(url=there.url, auth=ApiKeyTokenProvider({"apiKey": "key-secret"}))
    client = OpenLineageClient(transport=HttpTransport(config))
    client.emit(client_event(ours[0].content))
    theirs = there.posted[-1]
    assert theirs.path == ours[0].path
    assert theirs.headers["Authorization"] == ours[0].headers["Authorization"] == "Bearer key-secret"
    theirs.content["run"]["facets"].pop("tags", None)  # the client says there that it is the client
    assert plain(theirs.content) == plain(ours[0].content)


def test_what_was_taken_is_not_sent_again_and_what_is_new_is(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings)
    assert emit_new(settings) == [EmitResult("file", 0)]
    append_records(
        settings, [StageRecord("score", "churn", NIGHTS[2], "model=churn@4", "predictions_churn", 1, 1, 0.1)]
    )
    write_version(settings.store_path, "churn", churn_rows(4), as_of="2026-01-04")
    assert emit_new(settings) == [EmitResult("file", 2)]
    assert emit_new(settings) == [EmitResult("file", 0)]
    runs = [event["run"]["runId"] for event in events_in(settings) if event["eventType"] == "START"]
    assert len(runs) == len(set(runs)) == len(JOBS) + 3


def test_a_version_that_a_vanished_machine_published_is_told_by_another_one_once(
    home: Settings, tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    push(open_store(home, "churn"), LocalFolder(remote))
    known = {"store_remote": str(remote), "openlineage_file": str(tmp_path / "events.jsonl")}
    assert emit_new(load_settings(home=tmp_path / "empty", lake=home.lake_uri, **known))[0].reason == ""
    assert emit_new(home.model_copy(update=known)) == [EmitResult("file", 0)]
    ended = [
        event["job"]["name"] for event in events_in(home.model_copy(update=known)) if event["eventType"] != "START"
    ]
    assert ended.count("publish.churn") == 1


def ingested(at: datetime, number: int) -> IngestedFile:
    day = f"{number}.csv"
    return IngestedFile("orders", day, NIGHTS[0], 90, at, "00", 9, 7, 2, None, 0, at, "other run", "code1")


def test_an_ingestion_that_began_hours_before_others_is_told_when_it_is_recorded(
    home: Settings, tmp_path: Path
) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings)
    record_files(settings, [ingested(datetime.now(timezone.utc) - timedelta(hours=5), 1)])
    assert [emit_new(settings)[0].runs for _ in range(2)] == [1, 0]


def test_none_of_many_facts_of_a_day_is_told_twice(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    now = datetime.now(timezone.utc)
    record_files(settings, [ingested(now - timedelta(seconds=number), number) for number in range(600)])
    assert [emit_new(settings)[0].runs for _ in range(2)] == [600 + len(JOBS) + 1, 0]


def test_a_dead_server_holds_up_nothing_and_gets_everything_later(
    home: Settings, tmp_path: Path, there: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    settings = with_file(home, tmp_path).model_copy(
        update={"openlineage_url": f"{there.url}/x?key=url-secret", "openlineage_api_key": "key-secret"}
    )
    there.code = 503
    told = {each.receiver: each for each in emit_new(settings)}
    assert (told["file"].runs, told["file"].reason) == (len(JOBS) + 1, "")
    assert told["server"].reason.startswith("127.0.0.1 answered 503")
    assert len(there.posted) == 1
    emit_new(settings)
    assert len(there.posted) == 1, "it is left alone for a minute"
    there.code = 200
    assert emit_new(settings, patient=True)[1] == EmitResult("server", len(JOBS) + 1)
    assert "-secret" not in caplog.text


def test_a_refused_event_does_not_hold_up_the_others(home: Settings, there: Receiver) -> None:
    settings = home.model_copy(update={"openlineage_url": there.url})
    there.code = 422
    assert emit_new(settings)[0].runs == 0
    there.code = 200
    assert emit_new(settings) == [EmitResult("server", 0)]


def test_a_refused_event_does_not_hold_up_others_that_are_sent_again(home: Settings, there: Receiver) -> None:
    settings = home.model_copy(update={"openlineage_url": there.url})
    facts = recorded_facts(settings, since=datetime.fromtimestamp(0, timezone.utc))

    def refuse_the_first(_: object) -> None:
        there.code = 422 if len(there.posted) == 1 else 200

    there.before = refuse_the_first
    (told,) = emit_again(settings, facts, job_names={})
    assert (told.runs, told.reason) == (len(facts) - 1, "127.0.0.1 answered 422: ok.")


def test_a_home_that_nobody_has_is_a_reason_and_no_error(home: Settings) -> None:
    (told,) = emit_new(home.model_copy(update={"openlineage_file": "~nobody-of-this-name/events.jsonl"}))
    assert (told.runs, "home directory" in told.reason) == (0, True)


def test_a_file_that_cannot_be_written_is_a_reason_and_no_error(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    Path(settings.openlineage_file).mkdir()
    (told,) = emit_new(settings)
    assert "cannot be written" in told.reason


def test_an_event_after_a_line_that_was_cut_short_has_a_line_of_its_own(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    path = Path(settings.openlineage_file)
    path.write_text('{"eventType": "STA')
    emit_new(settings)
    lines = path.read_text().splitlines()
    assert lines[0] == '{"eventType": "STA'
    assert len([json.loads(line) for line in lines[1:]]) == 2 * (len(JOBS) + 1)


SMALL_DISK = """
import resource, sys
from pathlib import Path
from forecache.plugins.lineage.emit import EventFile

path = Path(sys.argv[1])
path.write_text('{"number": 0}\\n')
size = path.stat().st_size + 3000
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
failed = EventFile(path).send([{"number": 1, "text": "x" * 5000}])
assert "cannot be written" in failed.reason
assert EventFile(path).send([{"number": 2}]) is None
"""


def test_a_file_that_is_full_in_the_middle_of_an_event_has_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert subprocess.run([sys.executable, "-c", SMALL_DISK, str(path)], check=False).returncode == 0
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2]


JOB = """
import os, signal, sys
from forecache.plugins.lineage import emit
from forecache.base.settings import load_settings

seen = 0
def on_step(step):
    global seen
    seen += step == sys.argv[3]
    if seen == 3:
        os.kill(os.getpid(), signal.SIGKILL)
emit.lineage_step.on_step = on_step
settings = load_settings(home=sys.argv[1], project="shop", openlineage_file=sys.argv[2])
emit.emit_new(settings)
"""


@pytest.mark.parametrize(("step", "repeated"), [("taken", 1), ("noted", 0)])
def test_a_kill_loses_no_event_and_repeats_one_with_the_same_run_id(
    home: Settings, tmp_path: Path, step: str, repeated: int
) -> None:
    settings = with_file(home, tmp_path)
    job = [sys.executable, "-c", JOB, str(settings.home), settings.openlineage_file]
    assert subprocess.run([*job, step], check=False).returncode == -signal.SIGKILL
    assert subprocess.run([*job, "never"], check=False).returncode == 0
    runs = [event["run"]["runId"] for event in events_in(settings) if event["eventType"] == "COMPLETE"]
    assert (len(set(runs)), len(runs)) == (len(JOBS) + 1, len(JOBS) + 1 + repeated)


def test_processes_at_once_send_each_event_once(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    job = [sys.executable, "-c", JOB, str(settings.home), settings.openlineage_file, "never"]
    processes = [subprocess.Popen(job) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    emit_new(settings)
    runs = [event["run"]["runId"] for event in events_in(settings) if event["eventType"] == "COMPLETE"]
    assert len(runs) == len(set(runs)) == len(JOBS) + 1


def test_the_command_sends_again_by_run_or_day_with_the_same_ids(
    home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = with_file(home, tmp_path)
    for name in ("home", "project", "openlineage_file"):
        monkeypatch.setenv(f"FORECACHE_{name.upper()}", str(getattr(settings, name)))
    assert main(["lineage"]) == 0
    first = events_in(settings)
    assert main(["lineage", "--run", RUN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])[0]["runs"] == len(JOBS) - 1
    again = events_in(settings)[len(first) :]
    ids = {event["run"]["runId"] for event in again}
    assert ids <= {event["run"]["runId"] for event in first}
    assert main(["lineage", "--since", "today", "--show"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == len(first)
    assert len(events_in(settings)) == len(first) + len(again), "nothing was sent"
    assert main(["lineage", "--run", "nobody"]) == 3
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    assert recorded_facts(settings, since=tomorrow) == []
