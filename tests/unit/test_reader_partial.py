"""What is fetched of a remote for requests, and what is served while the remote is away, or ahead of this machine."""

import asyncio
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from live_support import LAYER, live_row, live_store
from store_tables import churn, predictions, scores, upsert, write_night

from forecache.base.errors import DamagedError, UnreachableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.kit.http.problems import Problem
from forecache.serve.reader.versions import partial_versions
from forecache.serve.reader.versions.catalog import SWAP_FAILURES, Catalog
from forecache.serve.reader.versions.partial_versions import EntriesMissingError, PartialVersion, PartialVersions
from forecache.serve.store import Store, open_store, publish, pull
from forecache.serve.store.layout import REALTIME
from forecache.serve.store.live.layer import write_layer
from forecache.serve.store.live.writer import open_live_writer


class Remote:
    """A snapshot whose reads wait until `answers` is set, and then answer or raise `error`."""

    def __init__(self) -> None:
        self.answers, self.error = threading.Event(), None
        self.num_reads = 0
        self.manifest = SimpleNamespace(carried=0)

    def get_entries(self, keys: Sequence[bytes]) -> list[bytes]:
        self.num_reads += 1
        assert self.answers.wait(60)
        if self.error is not None:
            raise self.error
        return [b"value of " + key for key in keys]


@pytest.fixture
def partial(tmp_path: Path) -> Any:
    made = PartialVersions(load_settings(home=tmp_path, store_remote=str(tmp_path / "remote")))
    yield made
    made.close()


async def fetch(partial: PartialVersions, version: PartialVersion, key: bytes, *, longest_s: float = 60.0) -> Any:
    with pytest.raises(EntriesMissingError) as missing:
        version.get_entries([key])
    try:
        return await partial.fetch(missing.value, longest_s)
    except Problem as problem:
        return problem.detail


def test_requests_beyond_the_limit_are_refused_and_the_others_answered(
    partial: PartialVersions, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote()
    version, most = PartialVersion(remote), partial_versions._MOST_FETCHES  # type: ignore[arg-type]

    async def ask_for_more_than_fit() -> list[Any]:
        asked = [asyncio.create_task(fetch(partial, version, b"%d" % number)) for number in range(most + 9)]
        while not all(each.done() for each in asked[most:]):
            await asyncio.sleep(0.01)
        assert not any(each.done() for each in asked[:most])
        remote.answers.set()
        return list(await asyncio.gather(*asked))

    found = asyncio.run(ask_for_more_than_fit())
    assert found[:most] == [{b"%d" % number: b"value of %d" % number} for number in range(most)]
    assert all("other requests wait" in each for each in found[most:])
    assert asyncio.run(fetch(partial, version, b"x")) == {b"x": b"value of x"}, "their places are free again"


def test_a_remote_that_has_failed_is_asked_again_only_after_a_look(partial: PartialVersions) -> None:
    remote = Remote()
    remote.answers.set()
    version, remote.error = PartialVersion(remote), UnreachableError("s3://far is away.")  # type: ignore[arg-type]
    assert "s3://far is away." in asyncio.run(fetch(partial, version, b"x"))
    remote.error = None
    assert "s3://far is away." in asyncio.run(fetch(partial, version, b"x"))
    assert remote.num_reads == 1
    partial._look()
    assert asyncio.run(fetch(partial, version, b"x")) == {b"x": b"value of x"}
    remote.error = DamagedError("a block is damaged.")
    for _ in range(2):
        with pytest.raises(DamagedError):
            asyncio.run(fetch(partial, version, b"x"))


def test_a_request_does_not_wait_for_longer_than_it_may(partial: PartialVersions) -> None:
    remote = Remote()
    version = PartialVersion(remote)  # type: ignore[arg-type]
    try:
        assert "longer than" in asyncio.run(fetch(partial, version, b"x", longest_s=0.05))
        assert "longer than" in asyncio.run(fetch(partial, version, b"x", longest_s=-1.0))
    finally:
        remote.answers.set()


def test_what_was_fetched_is_read_and_a_closed_version_is_not_fetched_from(partial: PartialVersions) -> None:
    remote = Remote()
    version = PartialVersion(remote)  # type: ignore[arg-type]
    version.fetched = {b"a": b"1", b"b": None}
    assert (version.get_entry(b"a"), version.get_entries([b"b", b"a"])) == (b"1", [None, b"1"])
    version.close()
    assert asyncio.run(fetch(partial, version, b"x")) == {}
    assert remote.num_reads == 0


@contextmanager
def open_catalog(settings: Settings) -> Iterator[Catalog]:
    """A reader's catalog that is asked to look by the test alone."""
    metrics: Any = SimpleNamespace(cells=[0] * 1000, pipeline_offset=lambda name: 0, count_swap=lambda *_, **__: None)
    with closing(Catalog(settings, metrics)) as catalog:
        yield catalog


def look(catalog: Catalog) -> None:
    with suppress(UnreachableError):
        catalog.partial._look()
    catalog._poll(lambda action: action())
    catalog._has_verified = True


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a machine whose remote does not answer."""

    def refuse(*_: object, **__: object) -> None:
        raise UnreachableError("s3://far is away.")

    monkeypatch.setattr(partial_versions, "open_remote", refuse)
    return load_settings(home=tmp_path / "home", store_remote="s3://far/store")


@pytest.mark.parametrize("has_version_there", [False, True])
def test_a_store_of_streamed_rows_alone_is_served_while_the_remote_is_away(
    away: Settings, has_version_there: bool
) -> None:
    layout = live_store(away.store_path, "alone")
    write_layer(layout, replace(LAYER, stream="alone"))
    with open_live_writer(layout, map_bytes=1 << 16) as writer:
        writer.apply(4, [(b"00007", live_row(4, 0.125))])
    if has_version_there:  # a pull has brought its layer, and was killed before it had the version
        layout.version_mark.touch()
    with open_catalog(away) as catalog:
        look(catalog)
        look(catalog)
        assert catalog.answers.keys() == (set() if has_version_there else {"alone"})
        assert catalog.warm is not has_version_there


def test_a_reader_with_models_alone_is_ready_while_the_remote_is_away(away: Settings) -> None:
    with open_catalog(away) as catalog:
        look(catalog)
        assert not catalog.warm
        release = away.store_path / REALTIME / "payments" / "CURRENT"
        release.parent.mkdir(parents=True)
        release.touch()
        look(catalog)
        assert catalog.warm


def test_what_a_long_pull_brings_does_not_replace_a_newer_version_of_the_remote(tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    publisher, reader = (load_settings(home=tmp_path / each, store_remote=str(remote)) for each in "ab")
    write_night(publisher, predictions(scores(30)))
    publish(publisher, churn())
    shutil.copytree(remote, tmp_path / "earlier")
    with open_catalog(reader) as catalog:

        def served() -> tuple[int, bool]:
            answers = catalog.answers["churn"]
            return answers.manifest.version, isinstance(answers.snapshot, PartialVersion)

        look(catalog)
        assert served() == (1, True)
        assert catalog.failures == {}
        upsert(publisher, predictions({"00007": 0.125}))
        publish(publisher, churn())
        look(catalog)
        assert served() == (2, True)
        pull(Store(reader.store_path / "churn"), LocalFolder(tmp_path / "earlier"))
        look(catalog)
        assert served() == (2, True)
        pull(open_store(reader, "churn"), LocalFolder(remote))
        look(catalog)
        assert served() == (2, False)
        assert catalog._metrics.cells[SWAP_FAILURES] == 0
