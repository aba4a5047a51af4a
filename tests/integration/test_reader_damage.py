"""Damaged stores under a reader: an answer is right or refused, and readiness, metrics and answers say so."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from reader_support import churn_rows, running_reader, served, write_version
from store_tables import churn, predictions, scores, upsert, write_night
from waiting import eventually

from forecache.base.settings import Settings
from forecache.base.table_names import kept_name
from forecache.serve.reader.versions.catalog import Catalog
from forecache.serve.reader.worker_metrics import LIVE, SLOT_BYTES, WorkerMetrics
from forecache.serve.store import Snapshot, Store, open_remote, open_store, publish, pull, push
from forecache.serve.store.layout import StoreLayout

CHANGED = {"00001": 0.125, "00400": 0.375, "new": 0.5}
TRUTH: dict[int, dict[str, float]] = {1: scores(2000), 2: {**scores(2000), **CHANGED}}


@pytest.fixture
def store(settings: Settings) -> Store:
    """Version 1, a base, and version 2, a delta with its filter over it."""
    write_night(settings, predictions(TRUTH[1]))
    publish(settings, churn())
    upsert(settings, predictions(CHANGED))
    assert publish(settings, churn()).details["kind"] == "incremental"
    return open_store(settings, "churn")


def flip(path: Path, offset: int = -1, count: int = 1) -> None:
    """Change bytes of a file in place, in the middle where no offset is given."""
    content = bytearray(path.read_bytes())
    start = len(content) // 2 if offset < 0 else offset
    for place in range(start, start + count):
        content[place] ^= 0x15
    with open(path, "r+b") as file:
        file.write(content)


def run_at_once(action: Callable[[], None]) -> None:
    """Run an action on the event loop's thread, which is this one."""
    action()


@contextmanager
def catalog(settings: Settings) -> Iterator[Catalog]:
    """The reader's catalog after one look at the store, without HTTP."""
    opened = Catalog(settings, WorkerMetrics(memoryview(bytearray(SLOT_BYTES))))
    try:
        opened._poll(run_at_once)
        yield opened
    finally:
        opened.close()


def check_answers(opened: Catalog) -> int | None:
    """Every answer is that of the version it names; that version, None where nothing is served."""
    answers = opened.answers.get("churn")
    if answers is None:
        assert "churn" in opened.damaged
        return None
    truth = TRUTH[answers.manifest.version]
    keys = [key.encode() for key in [*TRUTH[2], "nobody"]]
    many = orjson.loads(answers.many(keys)[0])
    assert {row["key"]: row["value"]["churn_probability"] for row in many["results"] if row["found"]} == truth
    for key in keys[::97]:
        one: Any = answers.one(key)
        assert (None if one is None else orjson.loads(one)["value"]["churn_probability"]) == truth.get(key.decode())
    assert many.get("fallback_for") == (2 if many["store_version"] == 1 else None)
    return answers.manifest.version


@pytest.mark.parametrize(
    ("what", "offset", "left"),
    [
        ("segments/*-base-*/000.mdb", 4096 * 5 + 1000, None),  # a page of entries
        ("segments/*-base-*/000.mdb", -2, None),  # the index behind the pages
        ("segments/*-base-*/000.mdb", 20, None),  # LMDB's first page
        ("segments/*-delta-*/000.mdb", -1, 1),
        ("segments/*-delta-*/hashes.u64", -1, 1),
        ("filters/*.bin", -1, 1),
        ("filters/*.bin", 0, 1),  # the width of its slots
        ("versions/00000002.json", -1, 1),
        ("CURRENT", -1, 2),  # its copy is read
    ],
)
def test_a_changed_byte_is_found_at_the_start_and_the_last_good_version_is_served(
    settings: Settings, store: Store, what: str, offset: int, left: int | None
) -> None:
    [path] = store.layout.root.glob(what)
    flip(path, path.stat().st_size - 100 if offset == -2 else offset)
    with catalog(settings) as opened:
        assert check_answers(opened) == left


def test_a_changed_byte_in_the_checksum_s_own_name_is_damage_too(settings: Settings, store: Store) -> None:
    for path in (store.layout.manifest(2), store.layout.pointer):
        whole = path.read_bytes()
        flip(path, whole.index(b'"checksum"') + 1)
        with catalog(settings) as opened:
            assert check_answers(opened) == (1 if path == store.layout.manifest(2) else 2)
        path.write_bytes(whole)


def test_random_flips_anywhere_never_give_a_wrong_answer(settings: Settings, store: Store) -> None:
    files = [path for path in store.layout.root.rglob("*") if path.is_file() and path.stat().st_size]
    files = [path for path in files if path.suffix != ".lease" and path.name != "LOCK"]
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chosen = random.Random(seed)
    served_now: set[int | None] = set()
    for _ in range(60):
        path = chosen.choice(files)
        whole = path.read_bytes()
        offset = chosen.randrange(len(whole))
        flip(path, offset, min(len(whole) - offset, chosen.choice((1, 1, 64, 4096))))
        with catalog(settings) as opened:
            served_now.add(check_answers(opened))
        path.write_bytes(whole)
    assert len(served_now) > 1
    with catalog(settings) as opened:
        assert check_answers(opened) == 2


@pytest.mark.parametrize("size", [0, 4096, -1])
def test_a_truncated_or_missing_file_is_refused_before_it_is_read(settings: Settings, store: Store, size: int) -> None:
    [path] = store.layout.root.glob("segments/*-delta-*/000.mdb")
    if size < 0:
        path.unlink()
    else:
        with open(path, "r+b") as file:
            file.truncate(size)
    with catalog(settings) as opened:
        assert check_answers(opened) == 1


@pytest.mark.parametrize(("name", "left"), [("versions/00000002.json", 1), ("CURRENT", 2)])
def test_a_manifest_or_a_pointer_that_is_lost_is_damage(settings: Settings, store: Store, name: str, left: int) -> None:
    path = store.layout.root / name
    whole = path.read_bytes()
    path.unlink()
    with catalog(settings) as opened:
        assert check_answers(opened) == left
        path.write_bytes(whole)
        opened._poll(run_at_once)
        assert check_answers(opened) == 2


def test_a_quarantined_version_is_no_fallback_and_a_repaired_one_is_served_again(
    settings: Settings, store: Store
) -> None:
    store.move(store.pointer().block({1: "for the test"}))
    [path] = store.layout.root.glob("segments/*-delta-*/000.mdb")
    whole = path.read_bytes()
    flip(path)
    with catalog(settings) as opened:
        assert check_answers(opened) is None
        path.unlink()
        path.write_bytes(whole)
        opened._poll(run_at_once)
        assert check_answers(opened) == 2
        assert opened.damaged == set()


@pytest.mark.parametrize(("kind", "left"), [("base", None), ("delta", 1)])
def test_bytes_that_rot_while_two_versions_share_a_base_are_served_of_neither(
    settings: Settings, store: Store, kind: str, left: int | None
) -> None:
    [path] = store.layout.root.glob(f"segments/*-{kind}-*/000.mdb")
    with catalog(settings) as opened:
        assert check_answers(opened) == 2
        flip(path, path.read_bytes().index(b'"churn_probability":') + 22)
        opened._scrub._scrub_once(None)
        opened._poll(run_at_once)
        assert check_answers(opened) == left


def test_a_version_that_is_withdrawn_is_said_to_be_unreadable_from_the_first_request_on(
    settings: Settings, store: Store
) -> None:
    [path] = store.layout.root.glob("segments/*-base-*/000.mdb")
    withdrawn = []
    with catalog(settings) as opened:

        def run_on_loop(action: Callable[[], None]) -> None:
            action()
            withdrawn.append(("churn" in opened.answers, "churn" in opened.failures))

        flip(path, path.read_bytes().index(b'"churn_probability":') + 22)
        opened._scrub._scrub_once(None)
        opened._poll(run_on_loop)
        assert withdrawn == [(False, True)]
        assert opened._metrics.cells[opened._metrics.pipeline_offset("churn") + LIVE] == 0


def test_a_look_at_a_store_that_has_not_changed_reads_no_more_than_the_pointer(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with catalog(settings) as opened:

        def asked(*_: object) -> None:
            raise AssertionError("nothing has changed")

        with monkeypatch.context() as patch:
            for name in ("blocked_versions", "version_numbers", "manifest"):
                patch.setattr(Store, name, asked)
            for name in ("numbers", "is_blocked"):
                patch.setattr(StoreLayout, name, asked)
            opened._poll(run_at_once)
            assert opened.failures == {}
        store.move(store.pointer().block({1: "for the test"}))
        opened._poll(run_at_once)
        states = [row["state"] for row in orjson.loads(opened.history["churn"])["versions"]]
        assert states[1] == ["blocked"]


@pytest.mark.parametrize("what", ["segments/*-base-*/000.mdb", "segments/*-delta-*/000.mdb", "filters/*.bin"])
def test_files_that_are_fetched_anew_take_the_place_of_the_rotten_ones_that_are_open(
    settings: Settings, store: Store, tmp_path: Path, what: str
) -> None:
    remote = open_remote(str(tmp_path / "remote"), {})
    push(store, remote)
    [path] = store.layout.root.glob(what)
    with catalog(settings) as opened:
        flip(path, max(0, path.read_bytes().find(b'"churn_probability":') + 22))
        before = opened.answers["churn"].snapshot
        assert pull(store, remote, verify=True)["files"] > 0
        opened._poll(run_at_once)
        assert check_answers(opened) == 2
        after = opened.answers["churn"].snapshot
        assert after is not before
        assert isinstance(after, Snapshot)
        assert not after.is_replaced()
        opened._poll(run_at_once)
        assert opened.answers["churn"].snapshot is after


def test_one_file_of_several_that_is_replaced_is_opened_anew_beside_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.serve.store.segment import writer as build

    monkeypatch.setattr(build, "SHARD_ROWS", 500)
    write_night(settings, predictions(TRUTH[1]))
    publish(settings, churn())
    upsert(settings, predictions(CHANGED))
    publish(settings, churn())
    paths = sorted(open_store(settings, "churn").layout.root.glob("segments/*-base-*/*.mdb"))
    assert len(paths) > 1
    whole = paths[1].read_bytes()
    with catalog(settings) as opened:
        flip(paths[1], whole.index(b'"churn_probability":') + 22)
        copy = paths[1].with_suffix(".copy")
        copy.write_bytes(whole)
        copy.replace(paths[1])
        opened._poll(run_at_once)
        assert check_answers(opened) == 2


def test_bytes_that_rot_under_a_running_reader_are_found_and_said(settings: Settings) -> None:
    path = settings.store_path
    for number in (1, 2):
        write_version(path, "churn", churn_rows(500, shift=float(number)))
    with running_reader(settings, reader_scrub_s=0.2, reader_workers=2) as reader:
        assert served(reader) == 2
        [file] = path.glob("churn/segments/00000002-base-*/000.mdb")
        content = file.read_bytes()
        flip(file, content.index(b'"churn_probability"'))

        def fell_back() -> bool:
            # Each worker notices by itself, and the kernel chooses the worker of each new connection.
            answers = [httpx.get(f"{reader.url}/v1/churn/00042").json() for _ in range(16)]
            assert {answer["store_version"] for answer in answers} <= {1, 2}
            return all((answer["store_version"], answer.get("fallback_for")) == (1, 2) for answer in answers)

        assert eventually(fell_back)
        assert httpx.get(f"{reader.url}/readyz").status_code == 200
        assert 'forecache_reader_damaged{pipeline="churn"} 1' in httpx.get(f"{reader.url}/metrics").text
        [other] = path.glob("churn/segments/00000001-base-*/000.mdb")
        flip(other, content.index(b'"churn_probability"'))
        assert eventually(lambda: "churn is damaged" in httpx.get(f"{reader.url}/readyz").json().get("detail", ""))
        assert eventually(lambda: httpx.get(f"{reader.url}/readyz").status_code == 503)
        assert eventually(lambda: httpx.get(f"{reader.url}/v1/churn/00042").status_code == 503)
        assert httpx.get(f"{reader.url}/healthz").status_code == 200
        write_version(path, "churn", churn_rows(500, shift=3.0))
        assert eventually(lambda: served(reader) == 3)
        assert eventually(lambda: httpx.get(f"{reader.url}/readyz").status_code == 200)


def test_a_store_that_is_removed_and_published_anew_is_served_with_its_own_rows(settings: Settings) -> None:
    path = settings.store_path
    write_version(path, "churn", churn_rows(50, shift=1.0))
    with running_reader(settings) as reader:
        before = httpx.get(f"{reader.url}/v1/churn/00001")
        shutil.rmtree(path / "churn")
        write_version(path, "churn", churn_rows(50, shift=2.0))

        def moved() -> bool:
            found = httpx.get(f"{reader.url}/v1/churn/00001", headers={"if-none-match": before.headers["etag"]})
            return found.status_code == 200 and found.json()["value"] == churn_rows(50, shift=2.0)["00001"]

        assert eventually(moved)


def test_a_kept_contract_whose_store_returns_lists_its_versions_again(settings: Settings, tmp_path: Path) -> None:
    name = kept_name("churn", "0123456789abcdef")
    for pipeline in ("churn", name):
        write_version(settings.store_path, pipeline, churn_rows(10))
    folder = open_store(settings, name).layout.root
    with catalog(settings) as opened:
        before = opened.history[name]
        folder.rename(tmp_path / "gone")
        opened._poll(run_at_once)
        assert name not in opened.answers
        (tmp_path / "gone").rename(folder)
        opened._poll(run_at_once)
        assert opened.answers[name].manifest.version == 1
        assert opened.history[name] == before
