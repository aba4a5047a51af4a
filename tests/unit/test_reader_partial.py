"""What is fetched of a remote for requests: no more at once than a limit, and nothing while it does not answer."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forecache.base.errors import DamagedError, UnreachableError
from forecache.base.settings import load_settings
from forecache.kit.http.problems import Problem
from forecache.serve.reader.versions import partial_versions
from forecache.serve.reader.versions.partial_versions import EntriesMissingError, PartialVersion, PartialVersions


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
