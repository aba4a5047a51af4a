"""Answers in Feast's format, compared with ones that are made key by key from what was published."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_support import write_version

from forecache.kit.http.problems import Problem
from forecache.plugins.protocols import feast
from forecache.plugins.protocols.feast import answer_request
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import Field, KeyColumn, KeySchema, Store

TEXTS = [None, "a", 'x,"y\\ å', "l\nm"]
ONE = {
    f"k{i}": {"a": [None, 1.5, -0.0, 1e-7][i % 4], "b": TEXTS[i // 4 % 4], "v": [None, [0.5, -0.25]][i % 2]}
    for i in range(60)
}
TWO = {(i, f"c|{i}"): {"a": i * 1.5, "q": i} for i in range(20)}
PUBLISHED: dict[str, dict[Any, dict[str, Any]]] = {"m": ONE, "n": TWO}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VersionAnswers]:
    store: Path = tmp_path_factory.mktemp("store")
    write_version(store, "m", ONE, fields=(Field("a", "double"), Field("b", "string"), Field("v", "array<float>")))
    key = KeySchema((KeyColumn("user", "int"), KeyColumn("c", "string")))
    write_version(store, "n", TWO, key=key, fields=(Field("a", "double"), Field("q", "bigint")))
    found = {name: VersionAnswers(Store(store / name).snapshot()) for name in PUBLISHED}
    for answers in found.values():
        answers.refresh(1.8e9)
    return found


def key_by_key(asked: dict[str, Any], served: dict[str, VersionAnswers]) -> dict[str, Any]:
    full, entities = asked.get("full_feature_names", False), asked["entities"]
    views: dict[str, list[str]] = {}
    for name, _, field in (each.partition(":") for each in dict.fromkeys(asked["features"])):
        views.setdefault(name, []).append(field)
    columns = {"m": ["customer_id"], "n": ["user", "c"]}
    count, epoch = len(next(iter(entities.values()))), "1970-01-01T00:00:00Z"
    names, results = [], []
    for name in dict.fromkeys(name for view in views for name in columns[view]):
        names.append(name)
        results.append({"values": entities[name], "statuses": ["PRESENT"] * count, "event_timestamps": [epoch] * count})
    for view, fields in views.items():
        keys = list(zip(*(entities[name] for name in columns[view]), strict=True))
        rows = [PUBLISHED[view].get(key if len(key) > 1 else key[0]) for key in keys]
        moment = served[view].manifest.as_of_end.strftime("%Y-%m-%dT%H:%M:%SZ")
        for field in fields:
            names.append(f"{view}__{field}" if full else field)
            values = [None if row is None else row[field] for row in rows]
            statuses = [
                "NOT_FOUND" if row is None else "NULL_VALUE" if row[field] is None else "PRESENT" for row in rows
            ]
            times = [epoch if row is None else moment for row in rows]
            results.append({"values": values, "statuses": statuses, "event_timestamps": times})
    metadata: dict[str, Any] = {"feature_names": names}
    if asked.get("include_feature_view_version_metadata"):
        metadata["feature_view_metadata"] = [{"name": view, "version": 1} for view in views]
    return {"metadata": metadata, "results": results}


ASKED = st.integers(0, 12).flatmap(
    lambda count: st.fixed_dictionaries(
        {
            "features": st.lists(
                st.sampled_from(["m:a", "m:b", "m:v", "n:q"]), min_size=1, max_size=5, unique=True
            ),
            "entities": st.fixed_dictionaries({
                "customer_id": st.lists(st.sampled_from([*ONE, "none", "å"]), min_size=count, max_size=count),
                "user": st.lists(st.integers(0, 22), min_size=count, max_size=count),
                "c": st.lists(st.sampled_from(["c|1", "c|2", "c|3", "z"]), min_size=count, max_size=count),
            }),
        },
        optional={"full_feature_names": st.booleans(), "include_feature_view_version_metadata": st.booleans()},
    )
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(asked=ASKED)
def test_an_answer_is_the_one_that_is_made_key_by_key(asked: dict[str, Any], served: dict[str, VersionAnswers]) -> None:
    for _ in range(2):  # the second one finds the answer's shape
        read, body, counts = answer_request(json.dumps(asked).encode(), served.__getitem__, max_keys=100)
        assert json.loads(body) == key_by_key(asked, served)
        views = dict.fromkeys(each.partition(":")[0] for each in asked["features"])
        assert read == [f"{view}=1" for view in views]
        for answers, found, missing in counts:
            assert found + missing == len(asked["entities"]["user"])
            assert found == sum(key in ONE for key in asked["entities"]["customer_id"]) or answers is served["n"]


def test_a_new_version_is_answered_by_and_an_old_one_refused_each_time(served: dict[str, VersionAnswers]) -> None:
    asked = json.dumps({"features": ["m:a"], "entities": {"customer_id": ["k1"]}}).encode()
    answers = served["m"]
    newer = VersionAnswers(answers.snapshot, fallback_for=7)
    newer.refresh(1.8e9)
    for each in (answers, newer, answers):
        assert answer_request(asked, lambda _, each=each: each, max_keys=1)[2][0][0] is each  # type: ignore[misc]
    newer.refused = True
    for _ in range(2):
        with pytest.raises(Problem, match="older than"):
            answer_request(asked, lambda _: newer, max_keys=1)


@pytest.mark.parametrize("more", [{"features": ["m@" + "x" * 100_000 + ":a"]}, {"entities": {"x" * 100_000: ["k1"]}}])
def test_requests_with_long_names_are_answered_and_take_no_memory(
    served: dict[str, VersionAnswers], more: dict[str, Any]
) -> None:
    feast._shapes.clear()
    asked: dict[str, Any] = {"features": ["m:a"], "entities": {"customer_id": ["k1"]}}
    entities = {**asked["entities"], **more.get("entities", {})}
    body = json.dumps({**asked, **more, "entities": entities}).encode()
    for _ in range(2):
        _, found, _ = answer_request(body, served.__getitem__, max_keys=10)
        assert json.loads(found) == key_by_key(asked, served)
    assert not feast._shapes
