"""OpenLineage events of recorded facts: valid by the official schemas and client, sent once, and lost by no kill."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from alert_receivers import Receiver, receiver
from deltalake import write_deltalake
from openlineage.client import OpenLineageClient
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport
from openlineage_valid import as_client_has_it, client_event, facets_of, require_valid
from reader_support import churn_rows, write_version

from assets.stage import Step, explained
from forecache.cli.main import main
from forecache.errors import InputError
from forecache.lake.ingest.ingested import IngestedFile, enter_files
from forecache.lake.ledger import StageRecord, record
from forecache.lineage.emit import Emitted, emit_again, emit_new, recorded_facts
from forecache.lineage.naming import place
from forecache.mail.ledger import MailLedger, MailRecord
from forecache.registry.promotions import Promotion, record_promotion
from forecache.results import Progress, StageResult
from forecache.settings import Settings, load_settings

RUN = "8f1f0a8e-64a5-4a57-9a4f-2f35d1d8f001"
NIGHTS = [date(2026, 1, day) for day in (1, 2, 3)]


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """A lake that has a record of each kind, from landing files to a mailing."""
    settings = load_settings(home=tmp_path / "home", project="shop", openlineage_code_url="https://example.org/shop")
    for name in ("raw_orders", "features_churn", "training_set_churn", "predictions_churn"):
        table = pa.table({"customer_id": ["ann"], "as_of": [NIGHTS[0]], "churn_probability": [0.5]})
        write_deltalake(settings.table_uri(name), table)
    now = datetime.now(timezone.utc)
    file = IngestedFile("orders", "2026-01-01.csv", NIGHTS[0], 90, now, "00", 9, 7, 2, None, 0, now, RUN, "code1")
    enter_files(settings, [file])
    record(settings, list(stage_rows()))
    record_promotion(settings, promotion(now))
    write_version(settings.store_path, "churn", churn_rows(3), as_of="2026-01-03")
    MailLedger(settings, "letters", "home").record(list(mails(now)))
    return settings


def stage_rows() -> Iterator[StageRecord]:
    report = {
        "name": "raw_orders",
        "rows": 7,
        "seconds": 0.1,
        "results": [
            {"expectation": "expect_column_values_to_not_be_null", "subject": "customer", "severity": "critical",
             "success": True, "sentence": "Yes."},
            {"expectation": "expect_table_row_count_to_be_between", "subject": "", "severity": "warning",
             "success": False, "sentence": "No."},
        ],
    }  # fmt: skip
    yield StageRecord(
        "check", "raw_orders", NIGHTS[0], "raw_orders@0 abc", "raw_orders", -1, 7, 0.1, report, run_id=RUN
    )
    for night in NIGHTS:
        inputs = f"raw_orders@{night.day - 1} code=xyz"
        yield StageRecord("features", "churn", night, inputs, "features_churn", 0, 10, 1.0, {}, run_id=RUN)
    yield StageRecord(
        "training_set", "churn", NIGHTS[2], "raw_orders@0 label=f dates=x", "training_set_churn", 0, 5, 1.0,
        {"pinned": {"stock": {"uri": "s3a://bucket/stock", "version": 4}}}, run_id=RUN,
    )  # fmt: skip
    trained = {"mlflow_run_id": "m1"}
    yield StageRecord("train", "churn", None, "training_set_churn@0 declared=f", "", -1, 5, 2.0, trained, run_id=RUN)
    registered = {"model_version": 3, "mlflow_run_id": "m1"}
    yield StageRecord("register", "churn", None, "training_set_churn@0 w=1", "", -1, 2, 0.5, registered, run_id=RUN)
    inputs = "model=churn@3 features_churn@0 declared=f kernel=1"
    yield StageRecord("score", "churn", NIGHTS[2], inputs, "predictions_churn", 0, 10, 3.0, {}, run_id=RUN)
    released = {"release": 2, "model": {"name": "search", "version": 1}}
    yield StageRecord("release", "search", None, "f", "", -1, 0, 0.1, released, run_id="by hand")


def promotion(now: datetime) -> Promotion:
    return Promotion(
        recorded_at=now,
        pipeline="churn",
        action="gate",
        actor="job",
        from_version=2,
        to_version=3,
        verdict="passed",
        reason="auc",
        training_table="training_set_churn",
        training_version=0,
        run_id=RUN,
    )


def mails(now: datetime) -> Iterator[MailRecord]:
    for user, state in (("ann", "accepted"), ("bob", "refused")):
        yield MailRecord(
            "letters", NIGHTS[2], user, state, f"<{user}@x>", now, "batch1", "home", "predictions_churn", 0, 1, RUN
        )


def with_file(home: Settings, tmp_path: Path) -> Settings:
    return home.model_copy(update={"openlineage_file": str(tmp_path / "events.jsonl")})


def events_in(settings: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(settings.openlineage_file).read_text().splitlines()]


def ends(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By job, the event of its end."""
    return {event["job"]["name"]: event for event in events if event["eventType"] != "START"}


def versions(datasets: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [
        (each["name"].rpartition("/")[2], each["facets"].get("version", {}).get("datasetVersion")) for each in datasets
    ]


def plain(content: Any) -> Any:
    """Without what the client's own version says of itself, what it does not know, and what is empty."""
    if isinstance(content, dict):
        left_out = ("_producer", "_schemaURL", "schemaURL", "forecache_stage")
        return {name: plain(value) for name, value in content.items() if name not in left_out and value not in ({}, [])}
    return [plain(each) for each in content] if isinstance(content, list) else content


JOBS = {
    "ingest.orders": ([("orders", None)], [("raw_orders", "0"), ("quarantine_orders", None)]),
    "check.raw_orders": ([("raw_orders", None)], []),
    "features.churn": ([("raw_orders", "2")], [("features_churn", "0")]),
    "training_set.churn": ([("raw_orders", "0"), ("stock", "4")], [("training_set_churn", "0")]),
    "train.churn": ([("training_set_churn", "0")], [("m1", None)]),
    "register.churn": ([("training_set_churn", "0"), ("m1", None)], [("churn", "3")]),
    "gate.churn": ([("churn", "3"), ("training_set_churn", "0")], [("churn@champion", "3")]),
    "score.churn": ([("features_churn", "0"), ("churn", "3")], [("predictions_churn", "0")]),
    "release.search": ([], [("search", "2")]),
    "mail.letters": ([("predictions_churn", "0")], []),
}


def test_every_stage_from_landing_to_store_is_told_with_what_it_read_and_made(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    assert emit_new(settings, job_names={RUN: "nightly_churn"}) == [Emitted("file", len(JOBS) + 1)]
    events = events_in(settings)
    told = {name: (versions(event["inputs"]), versions(event["outputs"])) for name, event in ends(events).items()}
    assert told.pop("publish.churn")[1] == [("churn", "1")]
    assert told == JOBS
    for event in events:
        require_valid(event)
        assert plain(as_client_has_it(event)) == plain(event)
    starts = {event["run"]["runId"]: event for event in events if event["eventType"] == "START"}
    assert len(starts) == len(ends(events)) == len(events) / 2
    for event in ends(events).values():
        assert starts[event["run"]["runId"]]["eventTime"] <= event["eventTime"]


def test_events_say_schema_counts_quality_parent_and_code(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings, job_names={RUN: "nightly_churn"})
    told = ends(events_in(settings))
    features = told["features.churn"]
    (made,) = features["outputs"]
    assert (made["namespace"], made["name"]) == ("file", f"{settings.lake_uri}/features_churn")
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 30
    assert [field["name"] for field in made["facets"]["schema"]["fields"]] == [
        "customer_id",
        "as_of",
        "churn_probability",
    ]
    run = features["run"]["facets"]
    assert run["parent"]["run"] == {"runId": RUN}
    assert run["parent"]["job"] == {"namespace": "shop", "name": "nightly_churn"}
    assert run["nominalTime"]["nominalStartTime"] == "2026-01-01T00:00:00.000000Z"
    assert run["nominalTime"]["nominalEndTime"] == "2026-01-04T00:00:00.000000Z"
    assert run["forecache_stage"]["nights"] == [night.isoformat() for night in NIGHTS]
    code = features["job"]["facets"]["sourceCodeLocation"]
    assert (code["url"], code["version"]) == ("https://example.org/shop", run["forecache_stage"]["code_version"])
    (judged,) = told["check.raw_orders"]["inputs"]
    assert judged["inputFacets"]["dataQualityMetrics"]["rowCount"] == 7
    assert [
        (each["assertion"], each.get("column"), each["success"], each["severity"])
        for each in judged["inputFacets"]["dataQualityAssertions"]["assertions"]
    ] == [
        ("expect_column_values_to_not_be_null", "customer", True, "error"),
        ("expect_table_row_count_to_be_between", None, False, "warn"),
    ]
    (stock,) = [each for each in told["training_set.churn"]["inputs"] if each["name"] == "stock"]
    assert stock["namespace"] == "s3://bucket"
    (stored,) = told["publish.churn"]["outputs"]
    lineage = stored["facets"]["columnLineage"]["fields"]
    assert lineage["churn_probability"]["inputFields"][0]["field"] == "churn_probability"
    assert told["mail.letters"]["run"]["facets"]["forecache_stage"]["details"] == {"accepted": 1, "refused": 1}
    # A run id that is no UUID becomes one.
    assert told["release.search"]["run"]["facets"]["parent"]["run"]["runId"] != "by hand"


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
    assert emit_new(settings) == [Emitted("file", 0)]
    record(settings, [StageRecord("score", "churn", NIGHTS[2], "model=churn@4", "predictions_churn", 1, 1, 0.1)])
    write_version(settings.store_path, "churn", churn_rows(4), as_of="2026-01-04")
    assert emit_new(settings) == [Emitted("file", 2)]
    assert emit_new(settings) == [Emitted("file", 0)]
    runs = [event["run"]["runId"] for event in events_in(settings) if event["eventType"] == "START"]
    assert len(runs) == len(set(runs)) == len(JOBS) + 3


def ingested(at: datetime, number: int) -> IngestedFile:
    day = f"{number}.csv"
    return IngestedFile("orders", day, NIGHTS[0], 90, at, "00", 9, 7, 2, None, 0, at, "other run", "code1")


def test_an_ingestion_that_began_hours_before_others_is_told_when_it_is_recorded(
    home: Settings, tmp_path: Path
) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings)
    enter_files(settings, [ingested(datetime.now(timezone.utc) - timedelta(hours=5), 1)])
    assert [emit_new(settings)[0].runs for _ in range(2)] == [1, 0]


def test_none_of_many_facts_of_a_day_is_told_twice(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    now = datetime.now(timezone.utc)
    enter_files(settings, [ingested(now - timedelta(seconds=number), number) for number in range(600)])
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
    assert emit_new(settings, patient=True)[1] == Emitted("server", len(JOBS) + 1)
    assert "-secret" not in caplog.text


def test_a_refused_event_does_not_hold_up_the_others(home: Settings, there: Receiver) -> None:
    settings = home.model_copy(update={"openlineage_url": there.url})
    there.code = 422
    assert emit_new(settings)[0].runs == 0
    there.code = 200
    assert emit_new(settings) == [Emitted("server", 0)]


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
from forecache.lineage.receivers import EventFile

path = Path(sys.argv[1])
path.write_text('{"number": 0}\\n')
size = path.stat().st_size + 3000
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
failed = EventFile(path).take([{"number": 1, "text": "x" * 5000}])
assert "cannot be written" in failed.reason
assert EventFile(path).take([{"number": 2}]) is None
"""


def test_a_file_that_is_full_in_the_middle_of_an_event_has_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert subprocess.run([sys.executable, "-c", SMALL_DISK, str(path)], check=False).returncode == 0
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2]


JOB = """
import os, signal, sys
from forecache.lineage import emit
from forecache.settings import load_settings

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


def failing(settings: Settings, pipeline: Any, *, run_id: str, progress: Progress) -> StageResult:
    record(
        settings, [StageRecord("features", pipeline.name, NIGHTS[0], "x", "features_churn", 0, 1, 0.1, run_id=run_id)]
    )
    raise InputError("The night 2026-01-02 is empty.", remedy="Land a file.")


class Declared:
    name = "churn"


def test_a_stage_that_fails_in_a_run_is_told_with_its_reason_and_what_it_did_before(
    home: Settings, tmp_path: Path
) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings)
    before = len(events_in(settings))
    failing.__name__ = "build_features"

    @dg.op
    @explained
    def work(context: dg.OpExecutionContext) -> Iterator[Any]:
        Step(context, settings).run(failing, settings, Declared())
        yield dg.Output(None)

    @dg.job
    def nightly_churn() -> None:
        work()

    result = nightly_churn.execute_in_process(raise_on_error=False)
    assert not result.success
    start, fail, done_start, done = events_in(settings)[before:]
    for event in (start, fail, done_start, done):
        require_valid(event)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert fail["job"]["name"] == "features.churn"
    assert fail["run"]["facets"]["errorMessage"]["message"] == "The night 2026-01-02 is empty. Land a file."
    assert fail["run"]["facets"]["parent"]["job"]["name"] == "nightly_churn"
    assert fail["run"]["facets"]["parent"]["run"]["runId"] == result.run_id
    assert (done["eventType"], done["job"]["name"]) == ("COMPLETE", "features.churn")


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("/data/lake/raw", ("file", "/data/lake/raw")),
        ("file:///data/lake/raw", ("file", "/data/lake/raw")),
        ("s3://bucket/lake/raw", ("s3://bucket", "lake/raw")),
        ("s3a://bucket/lake/raw", ("s3://bucket", "lake/raw")),
        ("gs://bucket/lake/raw", ("gs://bucket", "lake/raw")),
        ("abfss://box@account.dfs.core.windows.net/lake", ("abfss://box@account.dfs.core.windows.net", "lake")),
    ],
)
def test_datasets_are_named_by_openlineages_conventions(uri: str, named: tuple[str, str]) -> None:
    assert place(uri) == named


def test_every_facet_names_the_schema_that_it_was_validated_with(home: Settings, tmp_path: Path) -> None:
    settings = with_file(home, tmp_path)
    emit_new(settings)
    names = {name for event in events_in(settings) for name, _ in facets_of(event)}
    assert names == {
        *("columnLineage", "dataQualityAssertions", "dataQualityMetrics", "datasetType", "forecache_stage", "jobType"),
        *("nominalTime", "outputStatistics", "parent", "processing_engine", "schema", "sourceCodeLocation", "storage"),
        *("symlinks", "version"),
    }
