"""The Redis back end against a real redis-server, alone and as a cluster of three."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from second_process import running
from store_services import redis_cluster, redis_server
from store_tables import NEXT_NIGHT, OPEN_RULES, churn, prediction_table, predictions, scores, upsert, write_night
from view_tables import OPEN, features, household, write_features

from forecache.base.errors import CheckError, ConflictError, NotFoundError, SettingsError, UnavailableError
from forecache.base.settings import Settings
from forecache.cli.commands.distribution import _load_redis
from forecache.plugins.redis.client import connect, is_cluster, read_values
from forecache.plugins.redis.reader import RedisSource, RemoteVersion
from forecache.plugins.redis.snapshot import mark_names
from forecache.plugins.redis.versions import RedisStore, open_redis_store
from forecache.serve.store import open_store, publish, sync_targets

IN_REDIS = churn(rules=replace(OPEN_RULES, backend="redis"))


@pytest.fixture(scope="module", params=["alone", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    serve = redis_server if request.param == "alone" else redis_cluster
    with serve(tmp_path_factory.mktemp("redis")) as port:
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture
def redis_settings(url: str, settings: Settings) -> Iterator[Settings]:
    client = connect(url)
    client.flushall()
    yield settings.model_copy(update={"redis_url": url})
    client.close()


def entry_keys(client: Any) -> list[bytes]:
    return list(client.scan_iter(match="churn:*", count=5000))


def open_served(source: RedisSource) -> RemoteVersion:
    manifest = source.current()["churn"]
    assert manifest is not None
    return source.version(manifest)


def test_a_published_version_is_served_from_redis(redis_settings: Settings) -> None:
    odd = {"}": 0.25, "a}b": 0.5, "{x}": 0.75, "ключ": 1.0}
    write_night(redis_settings, predictions({**scores(2500), **odd}))
    result = publish(redis_settings, IN_REDIS)
    assert result.details["targets"]["redis"] == {"version": 1, "loaded": 2504, "unlinked": 0}
    there = open_redis_store(redis_settings, "churn")
    here = open_store(redis_settings, "churn")
    remote = there.snapshot()
    with here.snapshot() as local:
        assert remote.manifest == local.manifest
        keys = [key for key, _ in local.items()]
        assert remote.get_many(keys) == local.get_many(keys)
        assert remote.get("ключ".encode()) == local.get("ключ".encode())
        assert remote.get_many([b"nobody", keys[0]]) == [None, local.get(keys[0])]


def test_a_small_change_loads_a_small_segment_and_tombstones_hide_keys(redis_settings: Settings) -> None:
    write_night(redis_settings, predictions(scores(1500)))
    publish(redis_settings, IN_REDIS)
    upsert(redis_settings, predictions({"00001": 0.125, "new": 0.5}, run_id="run-2"))
    prediction_table(redis_settings).delete("customer_id = '00002'")
    result = publish(redis_settings, IN_REDIS)
    assert result.details["targets"]["redis"]["loaded"] == 3
    with open_redis_store(redis_settings, "churn").snapshot() as remote:
        assert remote.get(b"00001") == b'{"churn_probability":0.125,"risk_segment":"low"}'
        entry = remote.get_entry(b"00001")
        assert entry is not None
        assert b"\n" in entry
        assert remote.get(b"00002") is None
        assert remote.get_many([b"new", b"00002", b"00003"])[1] is None


def test_segments_that_no_version_needs_are_unlinked(redis_settings: Settings) -> None:
    write_night(redis_settings, predictions(scores(1200)))
    publish(redis_settings, IN_REDIS)
    store = open_redis_store(redis_settings, "churn")
    for number in (1, 2):
        night = NEXT_NIGHT.replace(day=number)
        write_night(redis_settings, predictions(dict.fromkeys(scores(1200), 0.5 / number), night=night), night=night)
        result = publish(redis_settings, IN_REDIS)
    assert result.details["targets"]["redis"]["unlinked"] == 1200
    assert len(entry_keys(store.client)) == 2400, "the served version and the one before it"


def test_a_removal_that_died_is_taken_up_and_leaves_nothing(
    redis_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_night(redis_settings, predictions(scores(1200)))
    publish(redis_settings, IN_REDIS)
    store, version = open_redis_store(redis_settings, "churn"), open_served(RedisSource(redis_settings.redis_url))
    others = set(store.client.scan_iter()) - {*entry_keys(store.client), *store.client.scan_iter("forecache:*")}
    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "_unlink", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.remove()
    assert "churn" not in RedisSource(redis_settings.redis_url).current()
    assert entry_keys(store.client)
    with pytest.raises(UnavailableError, match="Redis has removed version 1 of churn"):
        version.get_entry(b"nobody")  # so that no key is taken for unknown while entries are removed
    for _ in range(2):  # also of what is gone
        store.remove()
        assert set(store.client.scan_iter()) == others


def test_a_load_that_died_is_taken_up_and_what_it_left_is_unlinked(
    redis_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_night(redis_settings, predictions(scores(1500)))
    publish(redis_settings, IN_REDIS)
    night = NEXT_NIGHT
    write_night(redis_settings, predictions(dict.fromkeys(scores(1500), 0.5), night=night), night=night)
    honest = RedisStore._load_segment

    def dies_half_way(
        self: RedisStore, snapshot: Any, number: int, segment: Any, progress: Any, *, compare: bool
    ) -> int:
        def stop(message: str, share: float | None = None) -> None:
            raise KeyboardInterrupt

        return honest(self, snapshot, number, segment, stop, compare=compare)

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "_load_segment", dies_half_way)
        with pytest.raises(KeyboardInterrupt):
            publish(redis_settings, IN_REDIS)
    store = open_redis_store(redis_settings, "churn")
    current = store.current()
    assert current is not None
    assert current.version == 1
    assert b'"churn_probability":0.5,' not in (store.snapshot().get(b"00001") or b"")
    again = publish(redis_settings, IN_REDIS)
    assert again.skipped, "the local version is published already; only Redis was behind"
    assert again.details["targets"]["redis"] == {"version": 2, "loaded": 1500, "unlinked": 0}
    assert len(entry_keys(store.client)) == 3000


def test_a_key_that_redis_lost_is_never_unknown_also_if_all_is_loaded_again_before_it_is_judged(
    redis_settings: Settings,
) -> None:
    write_night(redis_settings, predictions(scores(100)))
    publish(redis_settings, IN_REDIS)
    here, keys = open_store(redis_settings, "churn"), [b"00001", b"nobody"]
    source = RedisSource(redis_settings.redis_url)
    served = open_served(source)
    expected = served.get_entries(keys)
    assert expected[0] is not None
    assert expected[1] is None
    client = connect(redis_settings.redis_url)
    client.flushall()
    read_of_the_emptied = read_values(client, served.entry_names(keys))
    with pytest.raises(UnavailableError, match="lost entries of it"):
        served.get_entries(keys)
    open_redis_store(redis_settings, "churn").load(here)
    with pytest.raises(UnavailableError, match="lost entries of it"):
        served.newest_entries(read_of_the_emptied)
    assert not source.has_loaded_again(served), "not before the reader looks"
    assert open_served(source).get_entries(keys) == expected
    assert source.has_loaded_again(served), "so that it is opened anew"
    client.close()


def test_a_version_reads_as_published_until_the_load_after_the_next_and_then_not_at_all(
    redis_settings: Settings,
) -> None:
    write_night(redis_settings, predictions(scores(1200)))
    publish(redis_settings, IN_REDIS)
    first, keys = open_served(RedisSource(redis_settings.redis_url)), [b"00001", b"nobody"]
    expected = first.get_entries(keys)
    for number, is_held in ((1, True), (2, False)):
        night = NEXT_NIGHT.replace(day=number)
        write_night(redis_settings, predictions(dict.fromkeys(scores(1200), 0.5 / number), night=night), night=night)
        publish(redis_settings, IN_REDIS)
        if is_held:
            assert first.get_entries(keys) == expected
    for key in keys:
        with pytest.raises(UnavailableError, match="Redis has removed version 1 of churn"):
            first.get_entry(key)


def test_what_an_earlier_release_loaded_is_read_and_compared_once_by_the_next_load(redis_settings: Settings) -> None:
    write_night(redis_settings, predictions(scores(100)))
    publish(redis_settings, IN_REDIS)
    client = connect(redis_settings.redis_url)
    pointer = json.loads(client.get("forecache:churn:current"))
    del pointer["load_before"]
    pointer["load"] = 1
    client.set("forecache:churn:current", json.dumps(pointer))
    for name in mark_names("churn", in_cluster=is_cluster(client)):
        client.set(name, 1) if is_cluster(client) else client.delete(name)
    earlier = open_served(RedisSource(redis_settings.redis_url))
    assert earlier.get_entries([b"00001", b"nobody"])[1] is None
    client.delete(*[name for name in entry_keys(client) if name.endswith(b"{k00001}")])
    assert publish(redis_settings, IN_REDIS).details["targets"]["redis"]["loaded"] == 1
    assert open_served(RedisSource(redis_settings.redis_url)).get_entry(b"00001") is not None
    client.close()


def test_a_rollback_flips_redis_back(redis_settings: Settings) -> None:
    write_night(redis_settings, predictions(scores(1200)))
    publish(redis_settings, IN_REDIS)
    upsert(redis_settings, predictions({"00001": 0.125}))
    publish(redis_settings, IN_REDIS)
    local = open_store(redis_settings, "churn")
    local.rollback()
    assert sync_targets(redis_settings, IN_REDIS, local)["redis"]["loaded"] == 0
    with open_redis_store(redis_settings, "churn").snapshot() as remote, local.snapshot() as here:
        assert remote.manifest.version == 1
        assert remote.get(b"00001") == here.get(b"00001")


def test_what_redis_lost_stops_the_flip(redis_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write_night(redis_settings, predictions(scores(100)))
    honest = RedisStore._verify

    def after_an_eviction(self: RedisStore, snapshot: Any, complete: set[str]) -> None:
        self.client.delete(entry_keys(self.client)[0])
        honest(self, snapshot, complete)

    monkeypatch.setattr(RedisStore, "_verify", after_an_eviction)
    with pytest.raises(CheckError, match="Redis reads None for b'"):
        publish(redis_settings, IN_REDIS)
    with pytest.raises(NotFoundError, match="Redis serves nothing"):
        open_redis_store(redis_settings, "churn").snapshot()


def test_a_push_loads_again_what_redis_has_dropped_or_changed(
    redis_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_night(redis_settings, predictions(scores(1200)))
    publish(redis_settings, IN_REDIS)
    upsert(redis_settings, predictions({"00001": 0.125, "new": 0.5}))
    prediction_table(redis_settings).delete("customer_id = '00002'")
    publish(redis_settings, IN_REDIS)
    there, here = open_redis_store(redis_settings, "churn"), open_store(redis_settings, "churn")
    with here.snapshot() as local:
        truth = dict(local.items())
        deltas = local.manifest.segments[1].id.encode()
    keys = [*truth, b"00002", b"nobody"]
    expected = [truth.get(key) for key in keys]
    lost = [name for name in entry_keys(there.client) if deltas in name or name.endswith((b"{k00007}", b"{k00008}"))]
    assert len(lost) == 5
    for name in lost[:-1]:
        there.client.delete(name)
    there.client.set(lost[-1], b"{}")
    there.client.delete("forecache:churn:segments")
    assert there.snapshot().get_entries(keys) != expected
    assert publish(redis_settings, IN_REDIS).skipped, "a publish that changes nothing does not read all of Redis"
    monkeypatch.setattr("forecache.cli.commands.distribution.settings", lambda: redis_settings)
    monkeypatch.setattr("forecache.cli.commands.distribution.find_published", lambda *_, **__: IN_REDIS)
    monkeypatch.setattr("forecache.cli.commands.distribution.resolve_served_names", lambda *_: ["churn"])
    [row] = _load_redis(())
    assert (row["version"], row["loaded"], row["unlinked"]) == (2, 5, 0)
    assert there.snapshot().get_entries(keys) == expected
    assert there.load(here, verify=True)["loaded"] == 0
    assert len(there.client.smembers("forecache:churn:segments")) == 2


def test_two_publishers_to_redis_one_wins(redis_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write_night(redis_settings, predictions(scores(100)))
    honest = RedisStore._verify

    def overtaken(self: RedisStore, snapshot: Any, complete: set[str]) -> None:
        honest(self, snapshot, complete)
        self.client.set("forecache:churn:current", b'{"version": 99}')

    monkeypatch.setattr(RedisStore, "_verify", overtaken)
    with pytest.raises(ConflictError, match="flipped churn in Redis meanwhile"):
        publish(redis_settings, IN_REDIS)


_LOADS_SLOWLY = """
import sys, time
from pathlib import Path
from forecache.base.settings import load_settings
from forecache.plugins.redis.versions import open_redis_store
from forecache.serve.store import Store
from forecache.plugins.redis.versions import RedisStore
store, url, go, moment = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
honest = getattr(RedisStore, moment)
def waits(self, *arguments):
    print(flush=True)
    while not go.exists():
        time.sleep(0.005)
    return honest(self, *arguments)
setattr(RedisStore, moment, waits)
open_redis_store(load_settings(redis_url=url), "churn").load(Store(store), verify=True)
"""


@pytest.mark.parametrize("moment", ["_state", "_unlink"])
def test_a_load_that_was_begun_before_a_publish_takes_nothing_back(
    redis_settings: Settings, tmp_path: Path, moment: str
) -> None:
    """Before it looks what Redis serves, and before it removes what nothing uses."""
    write_night(redis_settings, predictions(scores(100)))
    publish(redis_settings, IN_REDIS)
    here, go = open_store(redis_settings, "churn"), tmp_path / "go"
    upsert(redis_settings, predictions({"00001": 0.125}))

    def told(message: str, _: float | None) -> None:
        if message.startswith("Waiting for process"):
            go.touch()

    with running(_LOADS_SLOWLY, here.layout.root, redis_settings.redis_url, go, moment) as loading:
        publish(redis_settings, IN_REDIS, progress=told)
        go.touch()
        assert loading.wait(120) == 0
    there = open_redis_store(redis_settings, "churn").snapshot()
    assert there.manifest == here.current()
    with here.snapshot() as local:
        keys = [key for key, _ in local.items()]
        assert there.get_entries(keys) == local.get_entries(keys)


def test_a_redis_that_is_not_there_is_named_without_its_password(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="FORECACHE_REDIS_URL is not set"):
        open_redis_store(settings, "churn")
    gone = settings.model_copy(update={"redis_url": "redis://user:secret@127.0.0.1:1/0"})
    with pytest.raises(UnavailableError, match="127.0.0.1:1/0 does not answer") as caught:
        open_redis_store(gone, "churn")
    assert "secret" not in str(caught.value)


def test_a_redis_that_may_evict_entries_is_refused_and_its_missing_keys_are_no_unknown_keys(
    settings: Settings, tmp_path: Path
) -> None:
    with redis_server(tmp_path / "evicting") as port:
        client = redis.Redis(port=port)
        current = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})
        write_night(current, predictions(scores(50)))
        publish(current, IN_REDIS)
        source = RedisSource(current.redis_url)
        served = open_served(source)
        assert served.get_entries([b"00001", b"nobody"])[1] is None
        client.config_set("maxmemory-policy", "allkeys-lru")
        source.current()
        assert served.get_entry(b"nobody") is None, "without a limit nothing is evicted"
        client.config_set("maxmemory", 100_000_000)
        source.current()
        assert served.get_entry(b"00001") is not None
        with pytest.raises(UnavailableError, match="allkeys-lru: a key that is missing may have been evicted"):
            served.get_entry(b"nobody")
        upsert(current, predictions({"00001": 0.125}))
        with pytest.raises(SettingsError, match="maxmemory-policy allkeys-lru"):
            publish(current, IN_REDIS)
        client.config_set("maxmemory-policy", "volatile-lru")
        publish(current, IN_REDIS)
        served = open_served(source)
        with pytest.raises(UnavailableError, match="may have been evicted"):
            served.get_entry(b"nobody")
        open_redis_store(current, "churn").load(open_store(current, "churn"), verify=True)
        source.current()
        assert served.get_entry(b"nobody") is None, "every entry was compared"
        client.close()


def test_a_matrix_from_redis_is_that_of_the_local_store(redis_settings: Settings) -> None:
    view = household(replace(OPEN, backend="redis"))
    rows = {("s", number): (number / 3, number, None if number % 5 else [0.1, None, -0.0]) for number in range(1500)}
    write_features(redis_settings, features(rows))
    publish(redis_settings, view)
    rows[("s", 7)], rows[("new", 1)] = (None, None, None), (1.0, 10, None)  # 10 is the byte of a line feed
    del rows[("s", 8)]
    write_features(redis_settings, features(rows, night=NEXT_NIGHT), night=NEXT_NIGHT)
    assert publish(redis_settings, view).details["targets"]["redis"]["loaded"] == 3
    keys = [b"s|7", b"s|8", b"nobody|1", b"new|1", *(b"s|%d" % number for number in range(10, 1500))]
    remote = open_redis_store(redis_settings, "household").snapshot()
    with open_store(redis_settings, "household").snapshot() as local:
        for found, expected in zip(remote.matrix(keys), local.matrix(keys), strict=True):
            assert found.tobytes() == expected.tobytes()
        assert remote.get_many(keys) == local.get_many(keys) == list(map(remote.get, keys))
        assert remote.matrix([])[0].shape == local.matrix([])[0].shape == (0, 5)
