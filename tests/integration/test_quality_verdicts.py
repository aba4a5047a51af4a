"""Verdicts on real Delta tables: recorded by night, reused while nothing changed, asked by the publisher."""

from dataclasses import replace
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from forecache.base.errors import CheckError
from forecache.base.settings import Settings
from forecache.declare import Column, Source, expect
from forecache.kit.delta.tables import append_rows
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import IngestedFile, ingested_files, record_files
from forecache.lake.ingest.landing import source_uri
from forecache.lake.ledger import StageRecord, append_records
from forecache.lake.quality import verdicts
from forecache.lake.quality.expectations import raw_expectations
from forecache.lake.quality.raw_days import day_counts, raw_verdicts, reconcile, row_states
from forecache.lake.quality.validate import CheckReport, CheckResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAYS = [date(2026, 1, day) for day in (1, 2, 3)]
BETWEEN = [expect("expect_column_values_to_be_between", column="score", min_value=0, max_value=1)]


def _append(settings: Settings, day: date, *scores: float) -> None:
    rows = {"as_of": pa.array([day] * len(scores), pa.date32()), "score": pa.array(scores, pa.float64())}
    append_rows(settings, "scores", pa.table(rows), partition_by=["as_of"])


def _check(spark: "SparkSession", settings: Settings, states: dict[date, str]) -> dict[date, bool]:
    reports = verdicts.check_nights(settings, "scores", BETWEEN, column="as_of", states=states)
    return {night: report.success for night, report in reports.items()}


def test_one_bad_night_of_a_range_is_told_from_the_good_ones(spark: "SparkSession", settings: Settings) -> None:
    for day, score in zip(DAYS, (0.1, 7.0, 0.3), strict=True):
        _append(settings, day, score)
    assert _check(spark, settings, dict.fromkeys(DAYS, "v1")) == dict(zip(DAYS, (True, False, True), strict=True))
    verdicts.require_passed(settings, "scores", DAYS[0], state="v1")
    with pytest.raises(CheckError, match="2026-01-01 of table 'scores' was checked, but has other rows since"):
        verdicts.require_passed(settings, "scores", DAYS[0], state="v2")
    with pytest.raises(CheckError, match="2026-01-02 of table 'scores' failed its check: .*score must be 0 to 1"):
        verdicts.require_passed(settings, "scores", DAYS[1], state="v1")


def test_a_night_is_checked_again_only_when_its_rows_or_the_expectations_changed(
    spark: "SparkSession", settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _append(settings, DAYS[0], 0.1)
    checked: list[date] = []
    real = verdicts.evaluate
    monkeypatch.setattr(verdicts, "evaluate", lambda *a, **k: (checked.extend(k["dates"]), real(*a, **k))[1])
    _check(spark, settings, {DAYS[0]: "v1"})
    _check(spark, settings, {DAYS[0]: "v1"})
    assert len(checked) == 1
    _append(settings, DAYS[0], 3.0)
    assert _check(spark, settings, {DAYS[0]: "v2"}) == {DAYS[0]: False}
    verdicts.check_nights(settings, "scores", [], column="as_of", states={DAYS[0]: "v2"})
    assert len(checked) == 3


def test_a_warning_is_told_of_the_nights_that_it_concerns(spark: "SparkSession", settings: Settings) -> None:
    for day, score in zip(DAYS, (0.1, 7.0, 0.3), strict=True):
        _append(settings, day, score)
    warning = [expect("expect_column_values_to_be_between", column="score", max_value=1, severity="warning")]
    states = dict.fromkeys(DAYS, "v1")
    reports = verdicts.check_nights(settings, "scores", warning, column="as_of", states=states)
    assert [len(report.warnings) for report in reports.values()] == [0, 1, 0]
    assert all(report.success for report in reports.values())


def test_a_night_that_was_never_checked_is_refused(settings: Settings) -> None:
    with pytest.raises(CheckError, match="never checked"):
        verdicts.require_passed(settings, "scores", DAYS[0], state="v1")


SOURCE = Source(
    name="orders",
    columns=(Column("id", "string"), Column("day", "date"), Column("amount", "double", minimum=0)),
    event_time="day",
    start=DAYS[0],
)


def test_landing_rows_are_raw_or_quarantined_and_a_lost_row_is_found(settings: Settings) -> None:
    from pathlib import Path

    folder = Path(source_uri(settings, SOURCE))
    folder.mkdir(parents=True)
    (folder / "2026-01-01.csv").write_text("id,day,amount\na,2026-01-01,1\nb,2026-01-01,-1\nc,2026-01-01,x\n")
    (folder / "2026-01-02.csv").write_text("id,day,amount\na,2026-01-02,1\n")
    (folder / "2026-01-03.csv").write_bytes(b"")
    ingest(settings, SOURCE)
    found = reconcile(settings, SOURCE, DAYS)
    assert [(r.files, r.landing, r.raw, r.quarantine, r.files_in_quarantine) for r in found.values()] == [
        (1, 3, 1, 2, 0),
        (1, 1, 1, 0, 0),
        (1, 0, 0, 0, 1),
    ]
    assert all(r.success for r in found.values())
    assert found[DAYS[0]].sentence == (
        "3 landing rows of 1 files = 1 raw + 2 quarantined; 0 unreadable files are quarantined whole."
    )
    counts = day_counts(ingested_files(settings, SOURCE), DAYS[:2])
    assert [(c.files, c.landing, c.raw, c.quarantine) for c in counts.values()] == [(1, 3, 1, 2), (1, 1, 1, 0)]

    _claim_more_rows(settings)
    after = reconcile(settings, SOURCE, DAYS)
    lost = after[DAYS[1]]
    assert not lost.success
    assert "2026-01-02.csv has 9 rows, of which 1 are in raw_orders and 0 in quarantine_orders" in lost.sentence
    assert after[DAYS[0]].success


def test_a_verdict_on_a_raw_day_stands_while_its_rows_and_expectations_do(settings: Settings) -> None:
    at = datetime(2026, 1, 5, tzinfo=timezone.utc)
    file = IngestedFile("orders", "a.csv", DAYS[0], 9, at, "", 1, 1, 0, None, 4, at, "", "")
    files = [file, replace(file, file="b.csv", event_day=DAYS[1], raw_version=5)]
    states = row_states(SOURCE, day_counts(files, DAYS[:2]))
    inputs = verdicts.check_inputs(states, raw_expectations(SOURCE))
    failed = CheckResult("unique", "id", "critical", False, "id must be unique.")
    reports = [CheckReport("raw_orders", results, 1, 0.0).to_dict() for results in ((), (failed,))]
    table, sums = SOURCE.raw_table, {"success": True, "sentence": ""}
    for day, report in zip(DAYS, reports, strict=False):
        append_records(settings, [StageRecord("check", table, day, inputs[day], table, -1, 1, 0.0, report)])
        append_records(settings, [StageRecord("reconcile", table, day, states[day], table, -1, 1, 0.0, sums)])
    known = raw_verdicts(settings, SOURCE)
    assert known.refused_days == {DAYS[1]}
    assert known.current_verdicts(files, last=DAYS[0]) == {DAYS[0]: ""}
    assert list(known.current_verdicts(files, last=DAYS[2])) == DAYS[:2]
    assert "id must be unique." in known.current_verdicts(files, last=DAYS[2])[DAYS[1]]
    corrected = [files[0], replace(files[1], raw_version=6)]
    assert known.current_verdicts(corrected, last=DAYS[2]) == {DAYS[0]: ""}
    relaxed = raw_verdicts(
        settings, replace(SOURCE, expectations=(expect("expect_table_row_count_to_equal", value=1),))
    )
    assert relaxed.current_verdicts(files, last=DAYS[2]) == {}


def _claim_more_rows(settings: Settings) -> None:
    """Enter a file again with more rows than there are, as if some had been lost."""
    (file,) = [f for f in ingested_files(settings, SOURCE) if f.event_day == DAYS[1]]
    record_files(settings, [replace(file, landing_rows=9, ingested_at=datetime.now(timezone.utc))])
