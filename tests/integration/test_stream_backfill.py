"""Landed days in the table of a stream, and the table computed again from its own rows."""

import json
import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from landed_payments import land_payments, make_night
from maintenance_lake import age
from stream_sample import DAY, START, a_stream, messages, payment, release, table_rows
from stream_truth import plain

from forecache.base.errors import ConflictError, InputError
from forecache.base.settings import Settings
from forecache.cli.output import FLAGS
from forecache.declare.project import Project
from forecache.plugins.backfill.backfill import backfill, recompute_table
from forecache.plugins.backfill.lake_states import LakeStates
from forecache.plugins.backfill.recompute import recompute
from forecache.plugins.maintenance import lake as maintaining
from forecache.plugins.maintenance import table as maintain
from forecache.stream.engine.engine import hold_stream
from forecache.stream.step import StreamStep
from forecache.stream.table import writer
from forecache.stream.table.schema import OFFSET, PARTITION
from forecache.stream.table.writer import CommitBatch, StreamWriter

NEXT = DAY + timedelta(days=1)
_WHERE = {PARTITION, OFFSET}


def values_of(day: date, first: int, count: int) -> list[bytes]:
    """Payments of a day in the order of their times."""
    at = START + (day - DAY)
    return [
        payment(first + n, at=(at + timedelta(seconds=40 * n)).isoformat().replace("+00:00", "Z")) for n in range(count)
    ]


@pytest.fixture
def landed(settings: Settings) -> Settings:
    """Two landed days, of 50 and 30 payments, a night before the first, and a release that answers."""
    release(settings)
    make_night(settings, DAY - timedelta(days=1), [0, 1, 2])
    land_payments(settings, DAY, values_of(DAY, 0, 50)[::-1])
    land_payments(settings, NEXT, values_of(NEXT, 50, 30))
    return settings


def by_messages(settings: Settings, values: list[bytes], day: date) -> list[dict[str, Any]]:
    """The rows that messages come to, on the newest night before a day."""
    stream = a_stream()
    nights = LakeStates(settings, stream)
    step = StreamStep(settings, stream, bases=lambda view: nights.find_newest_before(view, day))
    step.answerer.switch_to(step.answerer.find_newer())
    return [without_place(row) for row in step.run(messages(values)).rows.to_pylist()]


def without_place(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain(row).items() if name not in _WHERE}


def stored(settings: Settings) -> list[dict[str, Any]]:
    return [without_place(row) for row in table_rows(settings, "stream_payments")]


def test_landed_days_become_the_rows_that_their_messages_would(landed: Settings) -> None:
    first, second = backfill(landed, a_stream(), DAY, NEXT, rows_a_commit=20)
    assert (first.landed, first.added, second.landed, second.added, first.late) == (50, 50, 30, 30, 0)
    # The night is two days old on the second, and its tiles are those of both days.
    assert stored(landed) == by_messages(landed, values_of(DAY, 0, 50) + values_of(NEXT, 50, 30), DAY)
    assert {row["feature_version"] for row in stored(landed)} == {f"customer={DAY - timedelta(days=1)}@0"}
    assert len({(row[PARTITION], row[OFFSET]) for row in table_rows(landed, "stream_payments")}) == 80
    again = backfill(landed, a_stream(), DAY, NEXT)
    assert [(day.landed, day.added) for day in again] == [(50, 0), (30, 0)]


def test_events_that_the_topic_brought_are_left_out_and_new_landed_ones_are_added(landed: Settings) -> None:
    stream = a_stream()
    nights = LakeStates(landed, stream)
    step = StreamStep(landed, stream, bases=lambda view: nights.find_newest_before(view, DAY))
    step.answerer.switch_to(step.answerer.find_newer())
    streamed = step.run(messages(values_of(DAY, 0, 50)[10:15]))
    StreamWriter(landed, stream).write(CommitBatch(streamed.rows, streamed.bad, {0: 5}))
    assert backfill(landed, stream, DAY, DAY)[0].added == 45
    assert sorted(row["payment_id"] for row in stored(landed)) == list(range(50))
    land_payments(landed, DAY, [payment(900, at=f"{DAY}T23:00:00Z")])
    assert backfill(landed, stream, DAY, DAY)[0].added == 1
    assert StreamWriter(landed, stream).offsets == {0: 5}
    assert recompute(landed, stream).difference is None


def test_a_stream_that_runs_a_day_without_rows_and_a_reversed_range_are_refused(landed: Settings) -> None:
    with hold_stream(landed, "payments", action="a test"), pytest.raises(ConflictError, match="is run by process"):
        backfill(landed, a_stream(), DAY, DAY)
    missing = NEXT + timedelta(days=1)
    with pytest.raises(InputError, match=f"has no rows of {missing}"):
        backfill(landed, a_stream(), missing, missing)
    with pytest.raises(InputError, match="before the first"):
        backfill(landed, a_stream(), NEXT, DAY)


def test_a_recomputation_compares_every_bit_and_tells_the_first_difference(
    landed: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FLAGS, "json", False)  # as a test of a command may have left it
    backfill(landed, a_stream(), DAY, NEXT, rows_a_commit=7)
    found = recompute(landed, a_stream())
    assert (found.rows, found.compared, found.gone, found.difference) == (80, 80, (), None)
    assert recompute_table(landed, a_stream())
    assert "80 of 80 rows compared" in capsys.readouterr().out
    row = table_rows(landed, "stream_payments")[61]
    change_a_bit(landed, row["position"], row["place"])
    found = recompute(landed, a_stream())
    assert found.difference is not None
    assert (found.difference.position, found.difference.place) == (row["position"], row["place"])
    assert (found.difference.column, dict(found.difference.key)) == ("score", {"payment_id": row["payment_id"]})
    assert found.difference.there == math.nextafter(found.difference.here, 2.0)
    assert not recompute_table(landed, a_stream())
    assert f"payment_id={row['payment_id']} (position {row['position']}" in capsys.readouterr().out


def test_rows_whose_night_is_gone_are_taken_in_and_not_compared(landed: Settings) -> None:
    backfill(landed, a_stream(), DAY, DAY)
    make_night(landed, DAY, [0, 3], seed=2)
    backfill(landed, a_stream(), NEXT, NEXT)
    features = Path(landed.table_uri("features_customer"))
    for file in features.glob(f"as_of={DAY - timedelta(days=1)}/*.parquet"):
        file.unlink()
    found = recompute(landed, a_stream())
    assert (found.rows, found.compared, found.difference) == (80, 30, None)
    assert found.gone == (f"customer={DAY - timedelta(days=1)}@0",)


def test_maintenance_keeps_a_night_that_was_made_anew_while_rows_stand_on_it(
    landed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    backfill(landed, a_stream(), DAY, DAY)
    night, features = DAY - timedelta(days=1), landed.table_uri("features_customer")
    for seed in (2, 3):
        DeltaTable(features).delete(f"as_of = '{night}'")
        make_night(landed, night, [0, 1, 2], seed=seed)
    age(landed)
    monkeypatch.setattr(maintaining, "read_project", lambda _: Project({}, {}, streams={"payments": a_stream()}))
    (done,) = maintaining.maintain_lake(landed, ["features_customer"])
    assert done.removed == 1, "no row stands on the one in between"
    found = recompute(landed, a_stream())
    assert (found.compared, found.gone, found.difference) == (50, (), None)


def change_a_bit(settings: Settings, position: int, place: int, column: str = "score") -> None:
    """Change the last bit of a score, or of a row's first feature, in the file of the table that holds it."""
    for file in DeltaTable(settings.table_uri("stream_payments")).file_uris():
        rows = pq.ParquetFile(file).read()
        where = [
            row["position"] == position and row["place"] == place
            for row in rows.select(["position", "place"]).to_pylist()
        ]
        if any(where):
            values = rows[column].to_pylist()
            number = where.index(True)
            if column == "features":
                first, *others = values[number]
                values[number] = [float(np.nextafter(np.float32(first), np.float32(2))), *others]
            else:
                values[number] = math.nextafter(values[number], 2.0)
            at = rows.schema.get_field_index(column)
            pq.write_table(rows.set_column(at, column, pa.array(values, rows[column].type)), file)
            return
    raise AssertionError(json.dumps([position, place]))


def test_features_that_are_kept_from_some_day_on_are_compared_too_and_survive_a_merge_of_files(
    landed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        writer, "hour_of", lambda at: "2026-03-05T10"
    )  # files of one hour are merged, as it passes or not
    backfill(landed, a_stream(), DAY, DAY, rows_a_commit=20)
    keeping = a_stream(keep_features=True)
    assert recompute(landed, keeping).difference is None, "the table has no such column yet"
    backfill(landed, keeping, NEXT, NEXT, rows_a_commit=10)
    kept = [row["features"] for row in table_rows(landed, "stream_payments")]
    assert kept[:50] == [None] * 50
    assert [len(each) for each in kept[50:]] == [4] * 30
    found = recompute(landed, keeping)
    assert (found.compared, found.difference) == (80, None)
    monkeypatch.setattr(maintain, "is_closed", lambda hour, now: True)
    assert maintain.merge_table(landed, "stream_payments") == 6
    assert [row["features"] for row in table_rows(landed, "stream_payments")] == kept
    found = recompute(landed, keeping)
    assert (found.compared, found.difference) == (80, None)
    assert recompute(landed, a_stream()).difference is None, "a stream that keeps none any more"
    row = table_rows(landed, "stream_payments")[61]
    change_a_bit(landed, row["position"], row["place"], "features")
    difference = recompute(landed, keeping).difference
    assert difference is not None
    assert (difference.position, difference.place, difference.column) == (row["position"], row["place"], "features")
    assert recompute(landed, a_stream()).difference is None
