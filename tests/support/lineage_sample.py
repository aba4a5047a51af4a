"""A lake that has a record of each kind that lineage tells of, and what its events say."""

import json
from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake
from reader_support import churn_rows, write_version

from forecache.base.settings import Settings, load_settings
from forecache.kit.lease import local_lease
from forecache.lake.ingest.ingested_files import IngestedFile, record_files
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.registry.promotions import Promotion, record_promotion
from forecache.plugins.mail.ledger import MailLedger, MailRecord

RUN = "8f1f0a8e-64a5-4a57-9a4f-2f35d1d8f001"
NIGHTS = [date(2026, 1, day) for day in (1, 2, 3)]


def write_lake(home: Path) -> Settings:
    """A lake that has a record of each kind, from landing files to a mailing."""
    settings = load_settings(home=home, project="shop", openlineage_code_url="https://example.org/shop")
    for name in ("raw_orders", "features_churn", "training_set_churn", "predictions_churn"):
        table = pa.table({"customer_id": ["ann"], "as_of": [NIGHTS[0]], "churn_probability": [0.5]})
        write_deltalake(settings.table_uri(name), table)
    now = datetime.now(timezone.utc)
    file = IngestedFile("orders", "2026-01-01.csv", NIGHTS[0], 90, now, "00", 9, 7, 2, None, 0, now, RUN, "code1")
    record_files(settings, [file])
    append_records(settings, list(stage_rows()))
    record_promotion(settings, promotion(now), after=None)
    write_version(settings.store_path, "churn", churn_rows(3), as_of="2026-01-03")
    MailLedger(settings, "letters", local_lease("mail/letters", "test")).record(list(mails(now)))
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
            "letters", NIGHTS[2], user, state, f"<{user}@x>", now, "batch1", "predictions_churn", 0, 1, RUN
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
