"""Answers: what they hold, how they age, and what a carried-forward row says of itself."""

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest
from reader_support import FIELDS, MODEL, write_version

from forecache.base.errors import InputError
from forecache.kit.http.problems import Problem
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import Field, KeyColumn, KeySchema, Provenance, Store
from forecache.serve.store.manifest import StalePolicy

AS_OF = "1998-06-30"
MIDNIGHT = datetime(1998, 7, 1, tzinfo=timezone.utc).timestamp()
ROWS = {
    "00042": {"churn_probability": 0.83, "risk_segment": "high"},
    "a b/ü": {"churn_probability": None, "risk_segment": 'q"uote'},
}
OLD_MODEL = Provenance("churn", 2, 5, "2026-11-20T01:00:00.000000Z", "run-2")

Open = Callable[..., VersionAnswers]


@pytest.fixture
def open_answers(tmp_path: Path) -> Iterator[Open]:
    opened = []

    def build(rows: Any = ROWS, **options: Any) -> VersionAnswers:
        write_version(tmp_path, "churn", rows, **{"as_of": AS_OF, **options})
        snapshot = Store(tmp_path / "churn").snapshot()
        opened.append(snapshot)
        return VersionAnswers(snapshot)

    yield build
    for snapshot in opened:
        snapshot.close()


def test_one_answer_has_the_value_and_where_it_comes_from(open_answers: Open) -> None:
    answers = open_answers()
    answers.refresh(MIDNIGHT + 123.9)
    body = answers.one(answers.encode("00042"))
    assert body is not None
    published = answers.manifest.published_at
    assert orjson.loads(body) == {
        "key": "00042",
        "value": ROWS["00042"],
        "source": "precomputed",
        "store_version": 1,
        "model": {"name": "churn", "version": 3},
        "as_of": AS_OF,
        "scored_at": MODEL.scored_at,
        "published_at": published,
        "age_s": 123,
        "stale": False,
    }


def test_keys_and_values_of_any_text_come_out_as_they_went_in(open_answers: Open) -> None:
    answers = open_answers()
    body = answers.one(answers.encode("a b/ü"))
    assert body is not None
    assert orjson.loads(body)["key"] == "a b/ü"
    assert orjson.loads(body)["value"] == ROWS["a b/ü"]


@pytest.mark.parametrize("values", [["a", "b\nc", "d"], ["a\n", "b"], ["a", 7], ["ä", "b"], ["1", "22"], [7, 8]])
def test_keys_are_encoded_together_as_they_are_one_by_one(open_answers: Open, values: list[object]) -> None:
    answers = open_answers()
    assert answers.keys.encode_values(values) == [answers.keys.encode_value(value) for value in values]


@pytest.mark.parametrize("bad", ["", "k" * 600, None, 1.5])
def test_a_wrong_key_among_good_ones_is_refused(open_answers: Open, bad: object) -> None:
    with pytest.raises(InputError):
        open_answers().keys.encode_values(["00001", bad, "00002"])


def test_a_missing_key_has_no_answer(open_answers: Open) -> None:
    answers = open_answers()
    assert answers.one(answers.encode("nobody")) is None


def test_many_answers_keep_the_order_and_mark_what_is_missing(open_answers: Open) -> None:
    answers = open_answers()
    body, found = answers.many([answers.encode(key) for key in ("a b/ü", "nobody", "00042", "a b/ü")])
    data = orjson.loads(body)
    assert found == 3
    assert [(row["key"], row["found"], row.get("value")) for row in data["results"]] == [
        ("a b/ü", True, ROWS["a b/ü"]),
        ("nobody", False, None),
        ("00042", True, ROWS["00042"]),
        ("a b/ü", True, ROWS["a b/ü"]),
    ]
    assert data["store_version"] == 1
    assert orjson.loads(answers.many([])[0])["results"] == []
    assert orjson.loads(answers.many([b"nobody"])[0])["results"] == [{"key": "nobody", "found": False}]


def test_a_fallback_does_not_hide_behind_a_304(open_answers: Open) -> None:
    answers = open_answers()
    fallback = VersionAnswers(answers.snapshot, fallback_for=2)
    assert fallback.etag == answers.etag[:-1] + '-fallback"'
    fallback.refresh(MIDNIGHT + 36 * 3600 + 1)
    assert fallback.etag == answers.etag[:-1] + '-fallback-stale"'


def test_only_the_fields_asked_for_come_in_their_order(open_answers: Open) -> None:
    answers = open_answers()
    body = answers.one(b"00042", ["risk_segment", "churn_probability"])
    assert body is not None
    assert list(orjson.loads(body)["value"]) == ["risk_segment", "churn_probability"]
    many, _ = answers.many([b"00042"], ["risk_segment"])
    assert orjson.loads(many)["results"][0]["value"] == {"risk_segment": "high"}
    with pytest.raises(Problem, match="no field 'income'"):
        answers.check_fields(["income"])


@pytest.mark.parametrize(
    ("on_stale", "before", "after"),
    [("flag", (False, False), (True, False)), ("serve", (False, False), (False, False)),
     ("refuse", (False, False), (True, True))],
)  # fmt: skip
def test_the_policy_decides_what_age_does(
    open_answers: Open, on_stale: str, before: tuple[bool, bool], after: tuple[bool, bool]
) -> None:
    answers = open_answers(policy=StalePolicy(36.0, on_stale))
    limit = MIDNIGHT + 36 * 3600
    answers.refresh(limit - 0.5)
    assert (answers.stale, answers.refused) == before
    fresh_etag = answers.etag
    answers.refresh(limit + 0.5)
    assert (answers.stale, answers.refused) == after
    assert (answers.etag != fresh_etag) == after[0], "a change of `stale` must not hide behind a 304"
    body = answers.one(b"00042")
    assert body is not None
    assert orjson.loads(body)["stale"] is after[0]
    assert orjson.loads(body)["age_s"] == 36 * 3600
    if answers.refused:
        with pytest.raises(Problem, match="36 h") as caught:
            answers.check_age()
        assert caught.value.kind.status == 503


def test_the_age_is_never_negative(open_answers: Open) -> None:
    answers = open_answers()
    answers.refresh(MIDNIGHT - 7200)
    assert answers.age_s == 0


def test_a_carried_forward_row_says_its_own_model_and_time(open_answers: Open) -> None:
    answers = open_answers(carried={"00042": OLD_MODEL})
    own, common = answers.one(b"00042"), answers.one("a b/ü".encode())
    assert own is not None
    assert common is not None
    assert orjson.loads(own)["value"] == ROWS["00042"]
    assert orjson.loads(own)["model"] == {"name": "churn", "version": 2}
    assert orjson.loads(own)["scored_at"] == OLD_MODEL.scored_at
    assert orjson.loads(common)["model"] == {"name": "churn", "version": 3}
    data = orjson.loads(answers.many([b"00042", "a b/ü".encode()])[0])
    assert data["results"][0]["model"] == {"name": "churn", "version": 2}
    assert data["results"][0]["value"] == ROWS["00042"]
    assert "model" not in data["results"][1]
    assert data["model"] == {"name": "churn", "version": 3}
    assert answers.rows([b"00042"]) == [ROWS["00042"]]


def test_integer_keys_are_taken_in_any_form_and_said_in_one(open_answers: Open) -> None:
    key = KeySchema((KeyColumn("id", "int"),))
    answers = open_answers({7: {"score": 1.0}, -3: {"score": 2.0}}, key=key, fields=(Field("score", "double"),))
    assert [answers.encode(text) for text in ("7", "007", "-3", "-0")] == [b"7", b"7", b"-3", b"0"]
    assert answers.keys.encode_value(7) == answers.keys.encode_value("7") == b"7"
    for wrong in ("x", "1.5", "", "7 "):
        with pytest.raises(InputError):
            answers.encode(wrong)
    for wrong_json in (1.5, True, None, ["7"]):
        with pytest.raises(InputError):
            answers.keys.encode_value(wrong_json)


def test_composite_keys_are_joined_text(open_answers: Open) -> None:
    key = KeySchema((KeyColumn("shop", "string"), KeyColumn("id", "int")))
    answers = open_answers({("a|b", 1): {"score": 1.0}}, key=key, fields=(Field("score", "double"),))
    body = answers.one(answers.encode("a%7Cb|1"))
    assert body is not None
    assert orjson.loads(body)["key"] == "a%7Cb|1"
    with pytest.raises(InputError, match="2 are needed"):
        answers.encode("a")


def test_a_key_longer_than_a_key_can_be_is_refused(open_answers: Open) -> None:
    answers = open_answers()
    assert answers.encode("k" * 511) == b"k" * 511
    for long in ("k" * 512, "é" * 256, ""):
        with pytest.raises(InputError):
            answers.encode(long)


def test_the_fields_of_a_version_are_known(open_answers: Open) -> None:
    assert open_answers().fields == {field.name for field in FIELDS}
