"""Versions in a Redis Cluster of six real nodes, some of which are killed, come back empty, or give slots away.

An answer is the published one, or an error: never another version's, and never "unknown" for a key that was published.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from redis_nodes import RedisNodes
from store_tables import NEXT_NIGHT, OPEN_RULES, churn, prediction_table, predictions, scores, upsert, write_night
from waiting import ThreadsBeside, wait_for

from forecache.base.errors import ConflictError, UnavailableError
from forecache.base.settings import Settings
from forecache.plugins.redis.client import connect
from forecache.plugins.redis.reader import RedisSource, RemoteVersion
from forecache.plugins.redis.snapshot import mark_names, slot_of
from forecache.plugins.redis.versions import RedisStore, open_redis_store
from forecache.serve.store import open_store, publish

pytestmark = [pytest.mark.slow, pytest.mark.faults]
IN_REDIS = churn(rules=replace(OPEN_RULES, backend="redis"))


@pytest.fixture(autouse=True)
def _waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is gone refuses at once; one that answers late is on a busy machine."""
    monkeypatch.setattr("forecache.plugins.redis.reader.TIMEOUT_S", 60.0)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RedisNodes]:
    found = RedisNodes(tmp_path / "nodes")
    yield found
    found.close()


@pytest.fixture
def cluster(nodes: RedisNodes, settings: Settings) -> Settings:
    return settings.model_copy(update={"redis_url": nodes.url})


def publish_two_versions(settings: Settings) -> dict[bytes, bytes | None]:
    """A base and a small segment over it, with a removed key; returns the entries of all keys that ever were."""
    write_night(settings, predictions(scores(3000)))
    publish(settings, IN_REDIS)
    upsert(settings, predictions({f"{number:05}": 0.125 for number in range(0, 3000, 50)}, run_id="run-2"))
    prediction_table(settings).delete("customer_id = '00002'")
    publish(settings, IN_REDIS)
    return truth_of(settings)


def truth_of(settings: Settings) -> dict[bytes, bytes | None]:
    with open_store(settings, "churn").snapshot() as local:
        return {b"00002": None, b"nobody": None, **dict(local.items())}


def served(source: RedisSource) -> RemoteVersion:
    manifest = source.current()["churn"]
    assert manifest is not None
    return source.version(manifest)


class Asking(ThreadsBeside):
    """A thread that asks for all keys again and again, and notes each wrong answer."""

    def __init__(self, settings: Settings, *truths: dict[bytes, bytes | None]) -> None:
        super().__init__(self._run)
        self._url, self._truths = settings.redis_url, truths
        self.wrong, self.rounds, self.refused = list[str](), 0, 0

    def __enter__(self) -> "Asking":
        super().__enter__()
        wait_for(lambda: self.rounds > 0)
        return self

    def _run(self) -> None:
        source, keys = RedisSource(self._url), list(self._truths[0])
        version: RemoteVersion | None = None
        while not self.stop.is_set():
            for start in range(0, len(keys), 100):
                asked = keys[start : start + 100]
                try:
                    version = version or served(source)
                    found = version.get_entries(asked)
                except UnavailableError:
                    self.refused += 1
                    continue
                if all(found != [truth[key] for key in asked] for truth in self._truths):
                    self.wrong.append(f"{asked[0]!r}: {found[0]!r}")
            self.rounds += 1


def test_a_primary_that_is_killed_costs_no_entry_and_no_wrong_answer(cluster: Settings, nodes: RedisNodes) -> None:
    truth = publish_two_versions(cluster)
    with Asking(cluster, truth) as asking:
        gone = nodes.primaries()[1]
        nodes.kill(gone)
        wait_for(lambda: len(nodes.primaries()) == 3 and nodes.is_whole(), seconds=120)
        after = asking.rounds
        wait_for(lambda: asking.rounds > after + 1, seconds=120)
    assert asking.wrong == []
    fresh = served(RedisSource(cluster.redis_url))
    assert fresh.get_entries(list(truth)) == list(truth.values())
    assert publish(cluster, IN_REDIS).details["targets"]["redis"]["loaded"] == 0, "nothing was lost"


def test_a_node_that_comes_back_empty_is_not_believed_and_is_loaded_again(cluster: Settings, nodes: RedisNodes) -> None:
    truth = publish_two_versions(cluster)
    with Asking(cluster, truth) as asking:
        gone = node_without_pointer(cluster, nodes)
        other = nodes.replica_of(gone)
        nodes.kill(other)
        nodes.kill(gone)
        nodes.start(gone)
        nodes.start(other)
        wait_for(nodes.is_whole, seconds=120)
        after = asking.rounds
        wait_for(lambda: asking.rounds > after + 1, seconds=120)
    assert asking.wrong == []
    assert asking.refused > 0
    version = served(RedisSource(cluster.redis_url))
    lost = {key for key in truth if is_refused(version, key)}
    assert 500 < len(lost) < 1500, "about a third of the keys"
    for key in truth.keys() - lost:
        assert version.get_entry(key) == truth[key]
    again = publish(cluster, IN_REDIS)
    assert again.skipped
    assert again.details["targets"]["redis"]["loaded"] > 500
    assert served(RedisSource(cluster.redis_url)).get_entries(list(truth)) == list(truth.values())


def node_without_pointer(settings: Settings, nodes: RedisNodes) -> int:
    """A primary that has only entries, and is not the one that clients connect to first."""
    client = connect(settings.redis_url)
    names = ["forecache:pipelines", "forecache:churn:current", "forecache:churn:segments"]
    needed = {client.get_node_from_key(name).port for name in names}
    client.close()
    return next(port for port in nodes.primaries() if port not in needed)


def is_refused(version: RemoteVersion, key: bytes) -> bool:
    try:
        version.get_entry(key)
    except UnavailableError:
        return True
    return False


def test_a_small_segment_that_a_node_lost_does_not_uncover_what_it_had_replaced(
    cluster: Settings, nodes: RedisNodes
) -> None:
    """As of a node that came back with an older snapshot: the base is there, the changes are not."""
    truth = publish_two_versions(cluster)
    client = connect(cluster.redis_url)
    slot = slot_of(b"00050")
    base, delta = (segment.id for segment in open_store(cluster, "churn").snapshot().manifest.segments)
    assert client.delete(f"churn:{delta}:{{k00050}}") == 1
    assert client.exists(f"churn:{base}:{{k00050}}")
    client.set(mark_names("churn", in_cluster=True)[slot], 1)
    version = served(RedisSource(cluster.redis_url))
    with pytest.raises(UnavailableError, match="lost entries of it"):
        version.get_entry(b"00050")
    assert publish(cluster, IN_REDIS).details["targets"]["redis"]["loaded"] == 1
    assert served(RedisSource(cluster.redis_url)).get_entries(list(truth)) == list(truth.values())
    client.close()


def test_slots_that_move_to_another_node_while_they_are_read_and_published_change_no_answer(
    cluster: Settings, nodes: RedisNodes
) -> None:
    before = publish_two_versions(cluster)
    write_night(cluster, predictions(dict.fromkeys(scores(3000), 0.5), night=NEXT_NIGHT), night=NEXT_NIGHT)
    source, target = nodes.primaries()[:2]
    names = {port: str(nodes.info(port, "CLUSTER", "MYID"), "ascii") for port in (source, target)}
    with Asking(cluster, before) as asking:
        move_slots(nodes, source, target, names, slots=[slot_of(key) for key in list(before)[:40]])
        rounds = asking.rounds
        wait_for(lambda: asking.rounds > rounds + 1, seconds=120)
    assert (asking.wrong, asking.refused) == ([], 0)
    publish(cluster, IN_REDIS)
    after = truth_of(cluster)
    assert served(RedisSource(cluster.redis_url)).get_entries(list(after)) == list(after.values())


def move_slots(nodes: RedisNodes, source: int, target: int, names: dict[int, str], *, slots: list[int]) -> None:
    """Move those of the slots that `source` has, as `redis-cli --cluster reshard` does."""
    with redis.Redis(port=source) as giver, redis.Redis(port=target) as taker:
        own = {slot for slot in slots if giver.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)}
        assert own
        for slot in own:
            taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
            giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
            while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 2):
                giver.execute_command("MIGRATE", "127.0.0.1", target, "", 0, 10_000, "KEYS", *keys)
            for each in (taker, giver):
                each.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
    wait_for(nodes.is_whole, seconds=120)


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_node_that_is_lost_during_a_load_leaves_the_version_before_served(
    cluster: Settings, nodes: RedisNodes, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    before = publish_two_versions(cluster)
    write_night(cluster, predictions(dict.fromkeys(scores(3000), 0.5), night=NEXT_NIGHT), night=NEXT_NIGHT)
    honest = RedisStore._verify

    def verify_then_lose(self: RedisStore, *arguments: object) -> None:
        honest(self, *arguments)  # type: ignore[arg-type]
        gone = next(port for port in nodes.primaries() if port != nodes.ports[0])
        nodes.kill(gone)
        if is_replaced:
            wait_for(lambda: len(nodes.primaries()) == 3 and nodes.is_whole(), seconds=120)

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "_verify", verify_then_lose)
        with pytest.raises((ConflictError, UnavailableError)):
            publish(cluster, IN_REDIS)
    wait_for(lambda: len(nodes.primaries()) == 3 and nodes.is_whole(), seconds=120)
    version = served(RedisSource(cluster.redis_url))
    assert version.manifest.version == 2
    assert version.get_entries(list(before)) == list(before.values())
    publish(cluster, IN_REDIS)
    after = truth_of(cluster)
    there = open_redis_store(cluster, "churn").snapshot()
    assert there.manifest.version == 3
    assert there.get_entries(list(after)) == list(after.values())


def test_a_node_that_comes_back_empty_during_a_load_is_not_marked_as_loaded(
    cluster: Settings, nodes: RedisNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = publish_two_versions(cluster)
    upsert(cluster, predictions({f"{number:05}": 0.25 for number in range(0, 3000, 60)}, run_id="run-3"))
    gone = node_without_pointer(cluster, nodes)
    other = nodes.replica_of(gone)
    honest = RedisStore._mark_slots

    def lose_then_mark(self: RedisStore, *arguments: object) -> None:
        for port in (other, gone):
            nodes.kill(port)
        for port in (gone, other):
            nodes.start(port)
        wait_for(nodes.is_whole, seconds=120)
        honest(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "_mark_slots", lose_then_mark)
        with pytest.raises((ConflictError, UnavailableError)):
            publish(cluster, IN_REDIS)
    version = served(RedisSource(cluster.redis_url))
    assert version.manifest.version == 2
    answers = {key: version.get_entry(key) for key in before if not is_refused(version, key)}
    assert 1000 < len(answers) < len(before) - 500
    assert answers == {key: before[key] for key in answers}, "no key of the lost node is answered as unknown"
    publish(cluster, IN_REDIS)
    after = truth_of(cluster)
    assert served(RedisSource(cluster.redis_url)).get_entries(list(after)) == list(after.values())
