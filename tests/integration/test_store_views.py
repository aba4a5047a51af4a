"""Feature views published as packed rows: what is served, what travels, what is refused."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from store_tables import NEXT_NIGHT, NIGHT
from view_tables import COLUMNS, FEATURES, OPEN, features, household, require_rows, write_features

from forecache.base.errors import CheckError, ConflictError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import Feature, Publish
from forecache.operations.publish_night import publish_night
from forecache.plugins.store_checks.compare_versions import diff_versions
from forecache.serve.store import Store, open_remote, open_store, publish, pull, push


def rows(count: int, *, start: int = 0) -> dict:
    """Rows of `count` households that differ, some numbers of which are unknown."""
    return {
        (f"s|{number % 3}%", number): (
            None if number % 11 == 0 else number / 7,
            None if number % 13 == 0 else -number,
            None if number % 17 == 0 else [number / 3, None if number % 5 == 0 else -0.0, float(number)],
        )
        for number in range(start, start + count)
    }


def test_a_view_is_served_to_the_bit(settings: Settings) -> None:
    write_features(settings, features(rows(50), night=NIGHT))
    write_features(settings, features(rows(200), night=NEXT_NIGHT), night=NEXT_NIGHT)
    result = publish_night(settings, household())
    store = open_store(settings, "household")
    manifest = store.current()
    assert manifest is not None
    assert (result.rows, result.nights, result.details["kind"]) == (200, (NEXT_NIGHT,), "full")
    assert (manifest.layout, manifest.columns, manifest.contract) == ("packed", COLUMNS, household().packed.contract)
    assert (manifest.as_of, manifest.source.table) == ("1998-07-01", "features_household")
    with store.snapshot() as snapshot:
        assert snapshot.columns == COLUMNS
        require_rows(snapshot, rows(200))
    assert publish_night(settings, household()).skipped


def test_what_differs_travels_as_a_small_segment_and_is_merged(settings: Settings) -> None:
    expected = rows(300)
    write_features(settings, features(expected))
    publish(settings, household())
    store = open_store(settings, "household")
    for number in range(1, 4):
        night = NIGHT + timedelta(days=number // 2)  # the same night anew, then the next ones
        expected |= rows(5, start=number * 1000) | {("s|0%", 0): (float(number), number, [1.0, 2.0, 3.0])}
        del expected["s|1%", number * 3 - 2]
        write_features(settings, features(expected, night=night), night=night)
        result = publish(settings, household())
        assert (result.details["kind"], result.details["segments"]) == ("incremental", number + 1), result.details
        assert (result.details["added"], result.details["removed"]) == (5, 1)
        with store.snapshot() as snapshot:
            require_rows(snapshot, expected)
    expected["s|2%", 2] = (None, None, None)
    write_features(settings, features(expected), night=NIGHT)
    merged = publish(settings, household(replace(OPEN, max_segments=1)), night=NIGHT, full=False)
    with store.snapshot() as snapshot:
        require_rows(snapshot, expected)
    assert merged.details["segments"] == 1


def test_a_view_that_means_something_else_is_a_new_base(settings: Settings) -> None:
    write_features(settings, features(rows(20)))
    publish(settings, household())
    fewer = household(Publish(fields=("taste", "spend"), max_psi=None))
    result = publish(settings, fewer)
    assert "mean something else" in result.details["why_full"]
    with open_store(settings, "household").snapshot() as snapshot:
        assert snapshot.columns == ("taste_0", "taste_1", "taste_2", "spend") == fewer.served_columns


def test_an_integer_that_float32_cannot_hold_is_named(settings: Settings) -> None:
    for number in (2**24 + 1, 2**53 + 1, -(2**63) + 1, 2**63 - 1):
        write_features(settings, features({("a", 7): (1.0, number, None)}))
        with pytest.raises(InputError, match=f"{number:,} in the field 'visits' of the key 'a|7' is not exact"):
            publish(settings, household())
    write_features(settings, features({("a", 7): (1.0, -(2**63), None), ("b", 7): (1.0, 2**24 + 2, None)}))
    assert publish(settings, household()).rows == 2


def test_a_vector_of_another_size_is_named(settings: Settings) -> None:
    write_features(settings, features({("a", 7): (1.0, 1, [1.0, 2.0])}))
    with pytest.raises(InputError, match="'taste' of the key 'a|7' has 2 numbers where its field has 3"):
        publish(settings, household())


def test_only_features_that_were_checked_are_published(settings: Settings) -> None:
    with pytest.raises(NotFoundError):
        publish_night(settings, household())
    write_features(settings, features(rows(5)))
    publish_night(settings, household())
    write_features(settings, features(rows(6)), checked=False)
    with pytest.raises(CheckError, match="has other rows since"):
        publish_night(settings, household())
    assert publish_night(settings, household(), unchecked=True).rows == 6


def test_features_that_an_earlier_declaration_has_computed_are_not_published_as_those_of_now(
    settings: Settings,
) -> None:
    write_features(settings, features(rows(5)), code=household().fingerprint)
    publish_night(settings, household())
    publishing = replace(OPEN, fields=tuple(feature.name for feature in FEATURES))
    edited = household(publishing, (*FEATURES, Feature("baskets")))
    assert edited.packed.contract != household().packed.contract
    for unchecked in (False, True):
        with pytest.raises(CheckError, match="household for 1998-06-30 were computed before its declaration"):
            publish_night(settings, edited, unchecked=unchecked)
    served = open_store(settings, "household").current()
    assert served is not None
    assert served.contract == household().packed.contract
    write_features(settings, features(rows(5)), code=edited.fingerprint)
    assert not publish_night(settings, edited).skipped


def test_a_view_without_publish_says_so(settings: Settings) -> None:
    with pytest.raises(InputError, match=r"'household' is not published.*publish=Publish\(\)"):
        publish_night(settings, household(publish=None))


def test_nulls_are_refused_where_the_declaration_says_so(settings: Settings) -> None:
    write_features(settings, features(rows(20)))
    with pytest.raises(CheckError, match="'spend' are null"):
        publish(settings, household(Publish(max_null_share=0.01)))


def test_json_versions_are_no_matrix_and_name_the_remedy(settings: Settings) -> None:
    from store_tables import churn, predictions, scores, write_night

    write_night(settings, predictions(scores(5)))
    publish(settings, churn())
    with open_store(settings, "churn").snapshot() as snapshot, pytest.raises(InputError, match="published as JSON"):
        snapshot.matrix([b"00001"])


def test_two_versions_are_compared(settings: Settings) -> None:
    before = rows(300)
    after = before | {("s|1%", 1): (5.0, 7, [0.0, 0.0, 0.0]), ("new", 1): (1.0, 1, None)}
    del after["s|2%", 2]
    for number, content in enumerate((before, after)):
        write_features(
            settings, features(content, night=NIGHT + timedelta(days=number)), night=NIGHT + timedelta(number)
        )
        publish(settings, household())
    found = diff_versions(open_store(settings, "household"), 1, 2)
    assert (found["changed"], found["added"], found["removed"], found["provenance_only"]) == (1, 1, 1, 0)
    assert (found["before"]["model"], found["after"]["rows"]) == (None, 300)
    assert found["fields"]["visits"]["mean_after"] == 7
    mover = found["top_movers"][0]
    assert (mover["key"], mover["field"], mover["after"]) == ("s%7C1%25|1", "spend", 5.0)


def test_a_version_goes_back_and_to_a_replica_as_any_other(settings: Settings, tmp_path: Path) -> None:
    for number, content in enumerate((rows(300), rows(310))):
        night = NIGHT + timedelta(days=number)
        write_features(settings, features(content, night=night), night=night)
        publish(settings, household())
    store, remote = open_store(settings, "household"), open_remote(str(tmp_path / "remote"), {})
    push(store, remote)
    replica = Store(tmp_path / "replica" / "household")
    pull(replica, remote)
    for each in (store, replica):
        with each.snapshot() as snapshot:
            require_rows(snapshot, rows(310))
    store.rollback()
    with store.snapshot() as snapshot:
        require_rows(snapshot, rows(300))
    with pytest.raises(CheckError, match="blocked"):
        publish(settings, household())


def test_two_publishers_at_once_leave_one_whole_version_each(settings: Settings) -> None:
    """Each waits or is refused; what is served at any moment is the whole of one of the two nights."""
    nights = {NIGHT: rows(300), NEXT_NIGHT: dict.fromkeys(rows(280), (9.0, 9, None))}
    for night, content in nights.items():
        write_features(settings, features(content, night=night), night=night)
    publish(settings, household(), night=NIGHT)
    store, whole = open_store(settings, "household"), {}
    for night in nights:
        publish(settings, household(), night=night, full=True)
        with store.snapshot() as snapshot:
            whole[night] = dict(snapshot.items())

    def run(night: date) -> None:
        for _ in range(4):
            try:
                publish(settings, household(), night=night, full=True)
            except ConflictError:
                continue

    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(run, night) for night in nights]
        while not all(each.done() for each in done):
            with store.snapshot() as snapshot:
                assert dict(snapshot.items()) == whole[date.fromisoformat(snapshot.manifest.as_of)]
        for each in done:
            each.result()
    numbers = store.version_numbers()
    assert len(numbers) == len(set(numbers))
    for manifest in store.versions():
        with store.snapshot(manifest.version) as snapshot:
            require_rows(snapshot, nights[date.fromisoformat(manifest.as_of)])


def test_a_category_is_refused_at_load() -> None:
    from forecache.base.errors import SettingsError

    with pytest.raises(SettingsError, match=r"category 'band'.*fields=\('spend',\)"):
        household(features=(Feature("spend"), Feature("band", type="category")))
    named = household(Publish(fields=("spend",)), features=(Feature("spend"), Feature("band", type="category")))
    assert named.served_columns == ("spend",)
    with pytest.raises(SettingsError, match="'nothing'"):
        household(Publish(fields=("nothing",)))
