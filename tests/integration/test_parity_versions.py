"""Parity of answers by the versions and releases that they name: changed, removed, vacuumed, old, or of fallbacks."""

import json
import shutil
import struct
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from logged_answers import (
    ARRIVED,
    LOOKUPS,
    NIGHT,
    PRODUCT_VIEW,
    Answering,
    logged,
    publish_views,
    release,
    replayed,
    requests,
    write_log,
)
from second_process import running
from waiting import wait_for

from forecache.base.settings import Settings
from forecache.declare.realtime.lookups import OrderGiven, Precomputed, Stored
from forecache.plugins.parity import check_stores as stores
from forecache.plugins.parity.store_versions import StoreVersion
from forecache.realtime.release.folder import open_releases
from forecache.serve.store import open_store, publish


@pytest.fixture
def answering(settings: Settings) -> Iterator[Answering]:
    publish_views(settings)
    release(settings)
    found = Answering(settings)
    yield found
    found.close()


def test_a_store_file_that_was_changed_after_the_answers_is_found(settings: Settings, answering: Answering) -> None:
    write_log(settings, logged(answering))
    answering.close()
    manifest = open_store(settings, "product").manifest(1)
    file = open_store(settings, "product").layout.segment(manifest.segments[0].id) / "000.mdb"
    content = file.read_bytes()
    value = struct.pack("<f", np.float32(30 / 9))
    assert value in content  # and perhaps in bytes that LMDB does not use, which are what memory held
    file.write_bytes(content.replace(value, struct.pack("<f", 99.0)))
    report = replayed(settings)
    states = {check.version.name: check for check in report.stores}
    assert states["product"].state == "differs"
    assert "000.mdb" in states["product"].why
    assert states["household"].state == "equal"
    assert {each.name for each in report.found.first} == {"popularity"}
    asked = [row for row in requests(30) if any(each["product_id"] == "p30" for each in json.loads(row)["candidates"])]
    assert report.found.differ == len(asked) > 0


def test_a_lake_that_no_longer_holds_what_was_published_is_found(settings: Settings, answering: Answering) -> None:
    write_log(settings, logged(answering, 3))
    table = DeltaTable(settings.table_uri("features_product"))
    changed = table.to_pyarrow_table()
    place = changed.schema.get_field_index("popularity")
    values = changed["popularity"].to_numpy().copy()
    values[0] += 1
    stored = changed.set_column(place, "popularity", pa.array(values)).drop_columns(["as_of"])
    (path,) = (Path(settings.table_uri("features_product")) / each for each in file_paths(table))
    entry = Path(settings.table_uri("features_product")) / "_delta_log" / f"{0:020}.json"
    was = path.stat().st_size
    pq.write_table(stored, path)
    entry.write_text(entry.read_text().replace(f'"size":{was}', f'"size":{path.stat().st_size}'))
    report = replayed(settings)
    assert report.found.differ == 0
    assert not report.has_passed
    assert "product version 1 holds 60 rows with the content hash" in report.sentence


def file_paths(table: DeltaTable) -> list[str]:
    return [unquote(path) for path in pa.table(table.get_add_actions(flatten=True))["path"].to_pylist()]


def test_removed_versions_are_read_from_the_lake(settings: Settings, answering: Answering) -> None:
    write_log(settings, logged(answering))
    answering.close()
    for number in range(1, 7):
        publish_views(settings, night=NIGHT + timedelta(days=number), shift=float(number))
    assert 1 not in open_store(settings, "product").version_numbers()
    report = replayed(settings)
    assert {check.state for check in report.stores} == {"removed"}
    assert (report.found.equal, report.found.differ) == (30, 0), report.sentence
    assert report.has_passed


def test_a_vacuumed_table_is_told_and_never_counted_as_equal(settings: Settings, answering: Answering) -> None:
    write_log(settings, logged(answering))
    answering.close()
    for number in range(1, 7):
        publish_views(settings, night=NIGHT + timedelta(days=number), shift=float(number))
    shutil.rmtree(settings.table_uri("features_product"))
    report = replayed(settings)
    assert (report.found.equal, report.found.differ) == (0, 0)
    assert report.found.not_recomputed["version"] == 30
    assert "30: a store has removed the version" in report.sentence
    assert report.sentence.startswith("Nothing was compared.")
    assert not report.has_passed


def test_a_release_that_is_gone_or_another_is_told(settings: Settings, answering: Answering) -> None:
    rows = logged(answering, 4)
    rows[0] |= {"model_version": 7}
    rows[1] |= {"arrived_at": datetime(2026, 2, 1, tzinfo=timezone.utc)}
    rows[2] |= {"release": 9}
    write_log(settings, rows)
    report = replayed(settings)
    assert (report.found.equal, report.found.not_recomputed["release"]) == (1, 3)
    shutil.rmtree(open_releases(settings, "ranking").release(1))
    assert replayed(settings).found.equal == 1, "it is fetched from the lake"
    shutil.rmtree(open_releases(settings, "ranking").release(1))
    shutil.rmtree(Path(settings.lake_uri, ".realtime", "ranking", "releases"))
    report = replayed(settings)
    assert (report.found.equal, report.found.not_recomputed["release"]) == (0, 4)


def test_ages_are_those_of_the_time_of_the_request(settings: Settings) -> None:
    publish_views(settings)
    capped = tuple(
        type(each)(**{**vars(each), "max_age_h": 240_000.0 if each.view == "product" else 1e9}) for each in LOOKUPS
    )
    release(settings, lookups=capped)
    answering = Answering(settings)
    rows = logged(answering, 6)
    product = answering.versions["product"]
    product.age_s = 240_001 * 3600
    product.valid_until = float("inf")
    old = [answering.answer(body, at=ARRIVED + timedelta(hours=1)) for body in requests(12)[6:]]
    for row in old:
        next(each for each in row["stores"] if each["name"] == "product")["age_s"] = product.age_s
    answering.close()
    assert all(np.isnan(np.frombuffer(row["features"], "<f4").reshape(8, 4)[:, 1]).all() for row in old)
    write_log(settings, [*rows, *old])
    report = replayed(settings)
    assert (report.found.equal, report.found.differ) == (12, 0), report.sentence


def test_lower_fallbacks_are_computed_again_from_their_stores(settings: Settings) -> None:
    publish_views(settings)
    fallbacks = (Precomputed(Stored("product", ("product_id",), "popularity")), OrderGiven())
    release(settings, fallbacks=fallbacks)
    answering = Answering(settings)
    rows = logged(answering, 6)
    lower = [answering.answer(body, why="deadline") for body in requests(14)[6:]]
    answering.path.fails = True
    failed = [answering.answer(body) for body in requests(16)[14:]]
    answering.close()
    assert {row["answered_by"] for row in lower} == {"precomputed", "order_given"}
    assert any(row["item_answered_by"] for row in lower)
    write_log(settings, [*rows, *lower])
    report = replayed(settings)
    assert (report.found.equal, report.found.differ) == (14, 0), report.sentence
    scores = np.frombuffer(lower[0]["scores"], np.float64).copy()
    scores[np.flatnonzero(~np.isnan(scores))[0]] += 1e-9
    write_log(settings, [{**lower[0], "request_id": "wrong", "scores": scores.tobytes()}, *failed])
    report = replayed(settings)
    assert [(each.request_id, each.kind) for each in report.found.first] == [("wrong", "score")]
    # Their features came from households, and the log of an answer without the model's names no such version.
    assert report.found.not_recomputed["not logged"] == 2


_RETIRES = """
import sys, time
from pathlib import Path
from forecache.serve.store import Store
from forecache.kit.versioned.pointer import lock_versions
from forecache.serve.store.store import retire_versions
store, go, done = (Path(each) for each in sys.argv[1:])
print(flush=True)
while not go.exists():
    time.sleep(0.005)
with lock_versions(Store(store).layout, action="publish"):
    retire_versions(Store(store), keep=0)
done.touch()
"""


def test_a_version_that_a_publish_would_remove_while_it_is_compared_is_no_difference(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_views(settings)
    publish(settings, PRODUCT_VIEW, full=True)  # which shares no file with the version before
    store = open_store(settings, "product")
    source, identity = store.manifest(1).source, store.manifest(1).store
    wanted = StoreVersion("product", 1, source.as_of, identity, source.table, source.delta_version)
    go, done, honest = tmp_path / "go", tmp_path / "done", stores.verify_segment

    def verified_late(*arguments: Any) -> int:
        go.touch()
        wait_for(done.exists)
        return honest(*arguments)

    monkeypatch.setattr(stores, "verify_segment", verified_late)
    with running(_RETIRES, store.layout.root, go, done):
        check = stores.check_store(settings=settings, wanted=wanted, contracts=(), folder=tmp_path / "rows")
    assert (check.state, check.why) == ("equal", "")
    assert store.version_numbers() == [1, 2]
