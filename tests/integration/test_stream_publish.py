"""A publish onto a stream holds the batch's rows with the stream's over them, up to its cut, as a dictionary says."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from store_tables import NEXT_NIGHT, NIGHT, OPEN_RULES, churn, predictions, scores, upsert, write_night
from stream_rows import StreamTable, click, live_churn, moment

from forecache.base.settings import Settings, load_settings
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import Store, open_store, publish, split_entry

DAY = timedelta(days=1)


def content(store: Store, version: int | None = None) -> dict[str, float]:
    with store.snapshot(version) as snapshot:
        rows = {key.decode(): json.loads(split_entry(entry)[0]) for key, entry in snapshot.items()}
        assert len(rows) == snapshot.manifest.rows
    return {key: row["churn_probability"] for key, row in rows.items()}


def expected(batch: Mapping[str, float], stream: StreamTable, night: date, cut: int) -> dict[str, float]:
    """By the rule, from all rows: the stream's last row of a key up to the cut, if the batch cannot have seen it."""
    rows: dict[str, Any] = dict(batch)
    unseen = [row for row in stream.rows() if row["position"] <= cut and _is_unseen(row, night)]
    rows.update({row["customer_id"]: row["churn_probability"] for row in unseen})
    return rows


def _is_unseen(row: Mapping[str, Any], night: date) -> bool:
    is_late = row["late"] and date.fromisoformat(row["feature_version"].split("@")[0]) >= night
    return row["event_day"] > night or is_late


def test_a_full_publish_overlays_what_the_batch_cannot_have_seen(settings: Settings) -> None:
    batch = scores(50)
    write_night(settings, predictions(batch))
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit([click("00001", 0.75, moment(NIGHT)), click("00002", 0.5, moment(NIGHT + DAY))])
    stream.commit([click("00002", 0.25, moment(NIGHT + DAY, 9)), click("new", 0.125, moment(NIGHT + DAY))])
    stream.commit(
        [
            click("00003", 0.0625, moment(NIGHT), late=True, feature_version=f"{NIGHT}@3"),
            click("00004", 0.0625, moment(NIGHT - DAY), late=True, feature_version=f"{NIGHT - DAY}@2"),
        ]
    )
    result = publish(settings, churn())
    assert result.details | {"cut": 2, "stream": "clicks", "streamed": 3, "keys": 51} == result.details
    assert content(store) == batch | {"00002": 0.25, "new": 0.125, "00003": 0.0625}
    manifest = store.current()
    assert manifest is not None
    assert (manifest.cut, manifest.stream, manifest.streamed, manifest.carried) == (2, "clicks", 3, 3)
    with store.snapshot() as snapshot:
        _, made_by = split_entry(snapshot.get_entry(b"00002") or b"")
        assert split_entry(snapshot.get_entry(b"00001") or b"")[1] == ""
    provenance = manifest.provenances[made_by]
    assert (provenance.model_version, provenance.feature_version, provenance.run_id) == (3, 7, "stream clicks")
    assert provenance.scored_at == "1998-07-01T09:00:00.000000Z"


def test_an_overlaid_row_says_the_day_and_the_hour_in_which_the_stream_made_it(settings: Settings) -> None:
    write_night(settings, predictions(scores(50)))
    store, stream = live_churn(settings), StreamTable(settings)
    later, late = moment(NIGHT + DAY, 9), moment(NIGHT - DAY)
    stream.commit([click("00002", 0.25, later), click("00003", 0.5, late, late=True, feature_version=f"{NIGHT}@3")])
    publish(settings, churn())
    with store.snapshot() as snapshot:
        answers = VersionAnswers(snapshot)
        said = [json.loads(answers.one(key) or b"") for key in (b"00001", b"00002", b"00003")]
        many = json.loads(answers.many([b"00001", b"00002"])[0])
        moments = answers.dated_rows([b"00001", b"00002", b"nobody"])[1]
    assert [each["as_of"] for each in said] == [str(NIGHT), str(NIGHT + DAY), str(NIGHT)]
    assert said[1]["scored_at"] == "1998-07-01T09:00:00.000000Z"
    assert (many["as_of"], many["results"][1]["as_of"]) == (str(NIGHT), str(NIGHT + DAY))
    assert [moment.isoformat() for moment in moments] == [
        "1998-07-01T00:00:00+00:00", "1998-07-01T09:00:00+00:00", "1998-07-01T00:00:00+00:00",
    ]  # fmt: skip


def test_a_publish_of_the_same_night_and_stream_is_skipped_and_one_more_row_is_published(settings: Settings) -> None:
    write_night(settings, predictions(scores(50)))
    store, stream = live_churn(settings), StreamTable(settings)
    assert publish(settings, churn()).details["cut"] == -1
    stream.commit([click("00002", 0.5, moment(NIGHT + DAY))])
    assert not publish(settings, churn()).skipped
    stream.commit([click("00002", 0.5, moment(NIGHT))])  # of a day that the batch has seen: nothing to overlay
    stream.compact()
    assert publish(settings, churn()).skipped
    stream.commit([click("00002", 0.25, moment(NIGHT + DAY))])
    result = publish(settings, churn())
    assert (result.skipped, result.details["kind"], result.details["changed"]) == (False, "incremental", 1)
    assert content(store) == scores(50) | {"00002": 0.25}


def test_the_next_night_uncovers_rows_whose_batch_row_has_not_changed(settings: Settings) -> None:
    batch = scores(50)
    write_night(settings, predictions(batch))
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit([click(key, 0.5, moment(NIGHT + DAY)) for key in ("00001", "00002", "only-streamed")])
    publish(settings, churn())
    assert content(store) == batch | {"00001": 0.5, "00002": 0.5, "only-streamed": 0.5}
    after = batch | {"00002": 0.25}
    write_night(settings, predictions(after, night=NEXT_NIGHT), night=NEXT_NIGHT)
    result = publish(settings, churn())
    assert result.details["kind"] == "incremental"
    assert content(store) == after
    current = store.current()
    assert current is not None
    assert (current.carried, current.streamed) == (0, 0)


def test_a_store_whose_stream_is_gone_has_the_batch_alone(settings: Settings) -> None:
    write_night(settings, predictions(scores(50)))
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit([click("00001", 0.5, moment(NIGHT + DAY))])
    publish(settings, churn())
    store.layout.live.unlink()
    result = publish(settings, churn())
    assert result.details["why_full"] == "rows come from the stream clicks no more"
    assert content(store) == scores(50)


def test_gates_judge_the_batch_and_not_what_the_stream_has_put_over_it(settings: Settings) -> None:
    write_night(settings, predictions(scores(50)))
    live_churn(settings)
    rules = replace(OPEN_RULES, max_row_change=0.1, max_psi=0.1)
    publish(settings, churn(rules=rules))
    stream = StreamTable(settings)
    stream.commit([click(f"new-{number}", 0.99, moment(NIGHT + DAY)) for number in range(100)])
    assert publish(settings, churn(rules=rules)).details["keys"] == 150
    write_night(settings, predictions(scores(50), night=NEXT_NIGHT), night=NEXT_NIGHT)
    assert publish(settings, churn(rules=rules)).details["keys"] == 50


def test_workers_hide_the_same_rows(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecache.serve.store.publishing import worker_pool

    monkeypatch.setattr(worker_pool, "INLINE_ROWS", 0)
    batch = scores(5000)
    write_night(settings, predictions(batch))
    store, stream = live_churn(settings), StreamTable(settings)
    rows = [click(f"{number:05d}", number / 8192, moment(NIGHT + DAY)) for number in range(4000, 6000)]
    cut = stream.commit(rows)
    publish(settings, churn())
    assert content(store) == expected(batch, stream, NIGHT, cut)


_NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""An example takes a second."""
_KEYS = st.sampled_from([f"{number:05d}" for number in range(12)] + ["a", "b"])
_COMMIT = st.lists(st.tuples(_KEYS, st.integers(0, 64), st.integers(-1, 2), st.booleans()), min_size=1, max_size=6)
_STEP = st.one_of(
    st.tuples(st.just("commit"), _COMMIT),
    st.tuples(st.just("batch"), st.lists(st.tuples(_KEYS, st.integers(0, 64)), max_size=3)),
    st.tuples(st.just("night"), st.lists(st.tuples(_KEYS, st.integers(0, 64)), max_size=3)),
    st.tuples(st.just("publish"), st.booleans()),
    st.tuples(st.just("compact"), st.none()),
)


@hypothesis_settings(max_examples=10, phases=_NO_SHRINKING, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEP, min_size=4, max_size=12))
def test_whatever_is_committed_scored_and_published_the_store_holds_what_a_dictionary_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    settings = load_settings(home=tmp_path_factory.mktemp("streamed") / "home")
    night, batch = NIGHT, {f"{number:05d}": 0.5 for number in range(10)}
    write_night(settings, predictions(batch))
    store, stream = live_churn(settings), StreamTable(settings)
    for kind, what in [*steps, ("publish", False)]:
        if kind == "commit":
            stream.commit([_clicked(night, *each) for each in what])
        elif kind == "compact" and stream.version >= 0:
            stream.compact()
        elif kind == "batch" and what:
            changed = {key: value / 64 for key, value in what}
            batch = batch | changed
            upsert(settings, predictions(changed, night=night))
        elif kind == "night":
            night += DAY
            batch = batch | {key: value / 64 for key, value in what}
            write_night(settings, predictions(batch, night=night), night=night)
        elif kind == "publish":
            publish(settings, churn(), full=what)
            manifest = store.current()
            assert manifest is not None
            assert content(store) == expected(batch, stream, night, manifest.cut)
            assert expected(batch, stream, night, manifest.cut) == expected(batch, stream, night, stream.version)


def _clicked(night: date, key: str, value: int, days: int, late: bool) -> dict[str, Any]:
    day = night + days * DAY
    return click(key, value / 64, moment(day), late=late and days <= 0, feature_version=f"{night}@1")


def test_rollback_goes_to_a_version_with_its_own_cut(settings: Settings) -> None:
    write_night(settings, predictions(scores(20)))
    store, stream = live_churn(settings), StreamTable(settings)
    first = stream.commit([click("00001", 0.5, moment(NIGHT + DAY))])
    publish(settings, churn())
    second = stream.commit([click("00001", 0.25, moment(NIGHT + DAY))])
    publish(settings, churn())
    assert [manifest.cut for manifest in store.versions()] == [first, second]
    assert store.rollback().cut == first
    assert content(open_store(settings, "churn"))["00001"] == 0.5
