"""Whatever is inserted, updated, deleted or replaced: base plus deltas is what a rebuild would be."""

import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_tables import NIGHT, OPEN_RULES, SCORED_AT, append, churn, prediction_table, predictions, upsert, write_night
from view_tables import OPEN, features, household, require_rows, write_features

from forecache.base.settings import load_settings
from forecache.serve.store import open_store, publish

KEYS = st.sampled_from([f"k{number}" for number in range(12)])
SCORES = st.sampled_from([0.0, 0.125, 0.5, 0.75, 1.0, None])
ROWS = st.dictionaries(KEYS, SCORES, min_size=1, max_size=8)
STEPS = st.one_of(
    st.tuples(st.just("upsert"), ROWS),
    st.tuples(st.just("delete"), st.sets(KEYS, min_size=1, max_size=4)),
    st.tuples(st.just("replace"), ROWS),
    st.tuples(st.just("next night"), ROWS),
    st.tuples(st.just("nothing"), st.none()),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=ROWS,
    rounds=st.lists(st.lists(STEPS, min_size=1, max_size=3), min_size=1, max_size=4),
    max_segments=st.sampled_from([1, 2, 16]),
)
def test_base_plus_deltas_equals_a_rebuild(first: dict, rounds: list, max_segments: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        current = load_settings(home=Path(folder) / "home")
        pipeline = churn(rules=replace(OPEN_RULES, max_segments=max_segments))
        night, number, expected = NIGHT, 1, dict(first)
        write_night(current, predictions(expected, night=night))
        publish(current, pipeline)
        store = open_store(current, "churn")
        for steps in rounds:
            for kind, argument in steps:
                number += 1
                about = {"run_id": f"run-{number}", "scored_at": SCORED_AT + timedelta(minutes=number)}
                if kind == "upsert":
                    upsert(current, predictions(argument, night=night, **about))
                    expected.update(argument)
                elif kind == "delete":
                    names = ", ".join(f"'{key}'" for key in sorted(argument))
                    prediction_table(current).delete(f"customer_id in ({names}) and as_of = '{night}'")
                    expected = {key: value for key, value in expected.items() if key not in argument}
                elif kind in ("replace", "next night"):
                    night += timedelta(days=kind == "next night")
                    write_night(current, predictions(argument, night=night, **about), night=night)
                    expected = dict(argument)
                if not expected:
                    append(current, predictions({"k0": 0.5}, night=night, **about))
                    expected = {"k0": 0.5}
            result = publish(current, pipeline)
            served = store.current()
            assert served is not None
            with store.snapshot() as snapshot:
                content = dict(snapshot.items())
                assert {key.decode(): value for key, value in content.items()}.keys() == expected.keys()
                assert {key: snapshot.get_entry(key) for key in content} == content
                for key, value in expected.items():
                    found = snapshot.get(key.encode())
                    assert found is not None
                    text = "null" if value is None else repr(value)
                    assert f'"churn_probability":{text},'.encode() in found
                assert served.carried == sum(b"\n" in entry for entry in content.values())
                origins = {
                    key: served.provenances.get(entry.partition(b"\n")[2].decode(), served.provenance)
                    for key, entry in content.items()
                }
            assert served.rows == len(expected) == result.rows
            publish(current, pipeline, full=True)
            rebuilt = store.current()
            assert rebuilt is not None
            with store.snapshot() as snapshot:
                again = dict(snapshot.items())
                assert {key: entry.partition(b"\n")[0] for key, entry in again.items()} == {
                    key: entry.partition(b"\n")[0] for key, entry in content.items()
                }
                assert origins == {
                    key: rebuilt.provenances.get(entry.partition(b"\n")[2].decode(), rebuilt.provenance)
                    for key, entry in again.items()
                }
            if rebuilt.provenance == served.provenance:
                assert rebuilt.content_hash == served.content_hash
            assert rebuilt.statistics["nulls"] == served.statistics["nulls"]
            store.rollback(served.version)  # later rounds go on from the deltas, not from the rebuild
            store.unblock(rebuilt.version)


FEATURE_KEYS = st.tuples(st.sampled_from(["a", "b|", "%"]), st.integers(-2, 12))
NUMBERS = st.none() | st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0])
FEATURES = st.dictionaries(
    FEATURE_KEYS,
    st.tuples(NUMBERS, st.none() | st.integers(-(2**24), 2**24), st.none() | st.lists(NUMBERS, min_size=3, max_size=3)),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    nights=st.lists(st.tuples(st.booleans(), FEATURES), min_size=2, max_size=4),
    max_segments=st.sampled_from([1, 2, 16]),
)
def test_published_features_are_those_of_the_table_to_the_bit(nights: list, max_segments: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        current = load_settings(home=Path(folder) / "home")
        view = household(replace(OPEN, max_segments=max_segments))
        night, rows = NIGHT, {}
        for starts_anew, changed in nights:
            rows = changed if starts_anew else rows | changed
            night += timedelta(days=starts_anew)
            write_features(current, features(rows, night=night), night=night)
            publish(current, view)
            store = open_store(current, "household")
            with store.snapshot() as snapshot:
                require_rows(snapshot, rows)
                served = snapshot.manifest.content_hash
            publish(current, view, full=True)
            rebuilt = store.current()
            assert rebuilt is not None
            assert rebuilt.content_hash == served
