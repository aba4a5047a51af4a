"""Parity of logged answers: equal to the bit where nothing is wrong, and every planted defect found and named."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable
from logged_answers import (
    DAY,
    HOUSEHOLDS,
    LOOKUPS,
    Answering,
    logged,
    publish_views,
    release,
    replayed,
    requests,
    write_log,
)
from ranking_code import impure, transforms

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings, load_settings
from forecache.declare.realtime.request import RequestField
from forecache.plugins.parity.replay import check_parity, replay_day

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def answering(settings: Settings) -> Iterator[Answering]:
    publish_views(settings)
    release(settings)
    found = Answering(settings)
    yield found
    found.close()


def test_answers_that_nothing_has_changed_are_equal_to_the_bit(settings: Settings, answering: Answering) -> None:
    rows = logged(answering)
    write_log(settings, rows[:10])
    write_log(settings, rows[10:])
    report = replayed(settings)
    found = report.found
    assert (found.requests, found.equal, found.differ, found.by_model) == (30, 30, 0, 30), report.sentence
    assert report.has_passed
    assert {check.state for check in report.stores} == {"equal"}
    assert set(found.features) == {"spend", "popularity", "log_price", "known"}
    assert found.features["spend"].values == 30 * 8 == found.scores.values
    logged_values = np.concatenate([np.frombuffer(row["features"], "<f4").reshape(-1, 4) for row in rows])
    assert found.features["spend"].pairs == np.isfinite(logged_values[:, 0]).sum() < 30 * 8


def test_a_machine_that_does_not_have_the_release_fetches_it(
    settings: Settings, answering: Answering, tmp_path: Path
) -> None:
    write_log(settings, logged(answering))
    elsewhere = load_settings(home=tmp_path / "elsewhere", lake=settings.lake_uri)
    shutil.copytree(settings.store_path, elsewhere.store_path, ignore=shutil.ignore_patterns(".realtime"))
    found = replayed(elsewhere).found
    assert (found.requests, found.equal, found.differ, sum(found.not_recomputed.values())) == (30, 30, 0, 0)


def one_bit(row: dict[str, Any], column: str, place: int) -> dict[str, Any]:
    content = bytearray(row[column])
    content[4 * place] ^= 1
    return {**row, column: bytes(content)}


def test_one_bit_of_a_feature_is_found_and_named(settings: Settings, answering: Answering) -> None:
    rows = logged(answering)
    was = struct.unpack_from("<f", rows[17]["features"], 4 * 9)[0]
    rows[17] = one_bit(rows[17], "features", 9)  # of the third candidate the second feature
    write_log(settings, rows)
    report = replayed(settings)
    first = report.found.first[0]
    assert (report.has_passed, report.found.differ, report.found.equal) == (False, 1, 29)
    assert (first.request_id, first.kind, first.name, first.place) == ("r00017", "feature", "popularity", 2)
    assert first.offline == f"0x{struct.unpack('<I', struct.pack('<f', was))[0]:08x} ({np.float32(was)!s})"
    assert first.logged != first.offline
    assert "r00017 of 2026-03-02T09:00:17.000000Z" in report.sentence
    differences = report.found.features["popularity"]
    assert (differences.mismatch, differences.missing, differences.extra) == (1, 0, 0)
    assert 0 < differences.max_abs < 1e-6
    assert differences.values == 30 * 8
    assert report.found.features["spend"].mismatch == 0


def test_a_request_that_is_refused_when_read_again_is_named_without_what_the_client_sent(
    settings: Settings, answering: Answering
) -> None:
    rows = logged(answering, 2)
    body = {**json.loads(rows[1]["request"]), "household_id": "a secret"}
    write_log(settings, [rows[0], {**rows[1], "request": json.dumps(body).encode()}])
    report = replayed(settings)
    assert [(each.kind, each.offline) for each in report.found.first] == [("request", "refused")]
    assert "secret" not in json.dumps(report.details())


def test_one_bit_of_a_score_is_found_and_named(settings: Settings, answering: Answering) -> None:
    rows = logged(answering)
    rows[3] = one_bit(rows[3], "scores", 5)
    write_log(settings, rows)
    report = replayed(settings)
    first = report.found.first[0]
    assert (report.found.differ, first.request_id, first.kind, first.place) == (1, "r00003", "score", 5)
    assert report.found.scores.mismatch == 1
    assert not any(each.mismatch for each in report.found.features.values())


def test_missing_and_extra_values_are_counted(settings: Settings, answering: Answering) -> None:
    rows = logged(answering, 2)
    matrix = np.frombuffer(rows[0]["features"], "<f4").reshape(8, 4).copy()
    known = int(np.flatnonzero(np.isfinite(matrix[:, 1]))[0])
    matrix[known, 1] = np.nan
    unknown = np.flatnonzero(np.isnan(np.frombuffer(rows[1]["features"], "<f4").reshape(8, 4)[:, 1]))
    other = np.frombuffer(rows[1]["features"], "<f4").reshape(8, 4).copy()
    other[unknown, 1] = 1.0
    write_log(settings, [{**rows[0], "features": matrix.tobytes()}, {**rows[1], "features": other.tobytes()}])
    popularity = replayed(settings).found.features["popularity"]
    assert (popularity.missing, popularity.extra, popularity.mismatch) == (1, len(unknown), 1 + len(unknown))


def test_a_score_in_another_type_is_a_difference(settings: Settings, answering: Answering) -> None:
    def widened(row: dict[str, Any]) -> dict[str, Any]:
        scores = np.frombuffer(row["scores"], row["score_dtype"]).astype(np.float64)
        return {**row, "scores": scores.tobytes(), "score_dtype": "float64"}

    write_log(settings, list(map(widened, logged(answering, 3))))
    report = replayed(settings)
    assert report.found.differ == 3
    assert report.found.first[0].kind == "score"
    assert "float64" in report.found.first[0].logged
    assert "float32" in report.found.first[0].offline


@pytest.mark.parametrize("transform", [impure.counting, impure.clock], ids=["global state", "time"])
def test_a_transform_that_depends_on_more_than_its_rows_is_named(settings: Settings, transform: Any) -> None:
    publish_views(settings)
    release(settings, transform)
    answering = Answering(settings)
    write_log(settings, logged(answering, 4))
    answering.close()
    report = replayed(settings)
    assert report.found.differ == 4
    assert {each.kind for each in report.found.first} == {"feature", "transform"}
    assert {each.name for each in report.found.first if each.kind == "feature"} == {"known"}
    again = next(each for each in report.found.first if each.kind == "transform")
    assert (again.request_id, again.offline) == ("r00000", "others at each call")


def test_a_transform_in_float64_where_the_log_has_float32_is_named(settings: Settings, answering: Answering) -> None:
    rows = logged(answering)
    features = np.frombuffer(rows[5]["features"], "<f4").reshape(8, 4).copy()
    price = np.array([each["price"] for each in json.loads(rows[5]["request"])["candidates"]])
    features[:, 2] = np.log(price.astype(np.float32) + np.float32(1e-3))
    write_log(settings, [*rows[:5], {**rows[5], "features": features.tobytes()}])
    report = replayed(settings)
    assert [(each.request_id, each.name) for each in report.found.first] == [("r00005", "log_price")]


def test_a_look_up_by_another_key_is_named(settings: Settings, answering: Answering) -> None:
    body = json.loads(requests(1)[0])
    right, wrong = ({**body, "household_id": number} for number in (4, 5))
    row = answering.answer(json.dumps(wrong).encode())
    write_log(settings, [{**row, "request": json.dumps(right).encode()}])
    report = replayed(settings)
    first = report.found.first[0]
    assert (first.kind, first.name) == ("feature", "spend")
    assert str(np.float32(HOUSEHOLDS[4][0])) in first.offline
    assert str(np.float32(HOUSEHOLDS[5][0])) in first.logged


def test_one_value_of_a_request_without_candidates_is_computed_again(settings: Settings) -> None:
    publish_views(settings)
    release(
        settings, transforms.fraud, features=("amount", "spend"), candidates=None, lookups=LOOKUPS[:1], on_nan="accept",
        request=(RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)),
        warmup=[b'{"household_id": 1, "amount": 2.5}'],
    )  # fmt: skip
    answering = Answering(settings)
    amounts = (0.1, float("nan"), float("-inf"), -0.0, 1e300)
    asked = [
        answering.served.parser.parse_values(
            {"household_id": number, "amount": amount, "request_id": f"r{number}"}, None
        )
        for number, amount in enumerate(amounts)
    ]
    rows = [answering.answer(each) for each in asked]
    rows.append(answering.answer(asked[0], why="deadline", request_id="late"))
    answering.close()
    assert {row["answered_by"] for row in rows} == {"model", "default"}
    write_log(settings, rows)
    report = replayed(settings)
    assert (report.found.equal, report.found.differ) == (6, 0), report.sentence


def test_the_results_of_a_day_are_replaced_by_a_second_run(settings: Settings, answering: Answering) -> None:
    rows = logged(answering)
    write_log(settings, [one_bit(rows[0], "scores", 1), *rows[1:]])
    result = check_parity(settings, "ranking", processes=0)
    assert result.nights == (DAY,)
    assert not result.details["passed"]
    check_parity(settings, "ranking", DAY, processes=0)
    table = DeltaTable(settings.table_uri("parity_ranking")).to_pyarrow_table().to_pylist()
    assert {row["day"] for row in table} == {DAY}
    by_kind = {kind: [row for row in table if row["kind"] == kind] for kind in {row["kind"] for row in table}}
    assert {kind: len(some) for kind, some in by_kind.items()} == {"requests": 1, "feature": 4, "score": 1, "store": 2}
    (told,) = by_kind["requests"]
    assert (told["compared"], told["mismatch"]) == (30, 1)
    assert json.loads(told["details"])["first"][0]["request_id"] == "r00000"


def test_worker_processes_and_a_sample_find_the_same(settings: Settings, answering: Answering) -> None:
    rows = logged(answering, 40)
    rows[31] = one_bit(rows[31], "features", 0)
    for start in range(0, 40, 10):
        write_log(settings, rows[start : start + 10])
    alone = replayed(settings)
    import forecache.plugins.parity.replay as run

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "_INLINE_ROWS", 0)
        together = replay_day(settings, "ranking", DAY, processes=2)
    assert together.details() == alone.details()
    half = replayed(settings, sample=0.5)
    nothing = replayed(settings, sample=1e-9)
    assert nothing.found.requests == 0
    assert "is in the log and in the sample of 1e-09" in nothing.sentence
    assert 0 < half.found.requests < 40
    assert half.found.requests == half.found.equal + half.found.differ


def test_a_model_without_a_log_is_named(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match="request_log_ranking"):
        check_parity(settings, "ranking", date(2026, 3, 1))
