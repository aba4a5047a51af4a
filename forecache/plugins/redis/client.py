"""A client of Redis or Redis Cluster, and commands that both have."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any

from forecache.base.errors import SettingsError, UnavailableError


def connect(url: str, *, timeout_s: float | None = None) -> Any:
    """Connect to Redis or, if the server runs in cluster mode, to Redis Cluster; values are bytes.

    With `timeout_s`, it waits so long for a connection and for an answer, without retries. Raises SettingsError without
    a URL, and UnavailableError if the redis package is not installed, or if the server does not answer.
    """
    if not url:
        raise SettingsError("FORECACHE_REDIS_URL is not set.", remedy="Set it, such as redis://127.0.0.1:6379/0.")
    try:
        import redis
    except ImportError:
        raise UnavailableError(
            "The redis back end needs the package redis.", remedy="Install forecache[redis]."
        ) from None
    waits: dict[str, Any] = {}
    if timeout_s is not None:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # By default it waits for seconds between tries.
        waits = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}
    client = redis.Redis.from_url(url, **waits)
    with raise_unavailable(f"Redis at {_without_password(url)}", "Start it, or set FORECACHE_REDIS_URL."):
        if client.info("server").get("redis_mode") == "cluster":
            client.close()
            return redis.RedisCluster.from_url(url, **waits)
    return client


@contextmanager
def raise_unavailable(what: str, remedy: str) -> Iterator[None]:
    """Raise UnavailableError with a remedy if the server `what` does not answer, or refuses, in the block."""
    import redis

    try:
        yield
    except redis.RedisError as error:
        raise UnavailableError(f"{what} does not answer: {error}.", remedy=remedy) from None


def evicting_policy(client: Any) -> str:
    """The `maxmemory-policy` under which a node may evict entries; "" if none does.

    Entries have no expiry, so the `volatile-` policies, like `noeviction`, do not evict them.
    """
    places: list[dict[str, Any]] = [{}]
    if is_cluster(client):
        places = [{"target_nodes": node} for node in client.get_primaries()]
    for node in (client.info("memory", **place) for place in places):
        policy = str(node.get("maxmemory_policy", ""))
        if policy.startswith("allkeys") and int(node.get("maxmemory", 0)):
            return policy
    return ""


_WAIT_MS = 10_000


def list_primaries(client: Any) -> dict[str, str]:
    """Identities of the processes that serve the slots of a cluster, by the nodes' ids; empty without a cluster."""
    if not is_cluster(client):
        return {}
    client.nodes_manager.initialize()
    servers = {node: client.info("server", target_nodes=node) for node in client.get_primaries()}
    return {node.name: str(server["run_id"]) for node, server in servers.items()}


def read_values(client: Any, names: Sequence[Sequence[bytes]]) -> list[bytes | None]:
    """The values of groups of Redis keys in one round trip (one per node of a cluster); None for missing ones.

    Of a cluster, the keys of a group are in the same slot, and are read by one command.
    """
    if not is_cluster(client):
        return list(client.mget([name for group in names for name in group]))
    pipe = client.pipeline(transaction=False)
    for group in names:
        pipe.execute_command("MGET", *group)
    return join_groups(pipe.execute(raise_on_error=False), names, lambda group: [client.get(name) for name in group])


def join_groups(
    results: Sequence[Any], names: Sequence[Sequence[bytes]], read_singly: Callable[[Sequence[bytes]], list[Any]]
) -> list[Any]:
    """Join what a cluster answered for each group; raises the first error.

    A slot that is being moved may have the keys of a group on two nodes: they are read singly then.
    """
    joined = list[Any]()
    for result, group in zip(results, names, strict=True):
        found = read_singly(group) if is_split(result) else result
        if isinstance(found, Exception):
            raise found
        joined += found
    return joined


def is_split(result: Any) -> bool:
    """Return whether a cluster could not read a group, since two nodes have its keys."""
    from redis.exceptions import TryAgainError

    return isinstance(result, TryAgainError)


def run_pipelined(cluster: Any, command: str, calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Run a command with each of these arguments in one round trip per node of a cluster; returns the results."""
    pipe = cluster.pipeline(transaction=False)
    for arguments in calls:
        getattr(pipe, command)(*arguments)
    return list(pipe.execute())


def run_on_each_primary(
    client: Any, script: str, names: Sequence[bytes], arguments: Callable[[str], tuple[Any, ...]] = lambda node: ()
) -> list[Any]:
    """Run a Lua script once on each primary of a cluster, with its own ones of the keys `names` (one for each slot).

    Before these it gets what `arguments` returns for the name of the node.

    The script has the flag `allow-cross-slot-keys`, of Redis 7 and Valkey. Raises UnavailableError if a node does not
    have the keys of a slot any more.
    """
    from redis.exceptions import ResponseError

    results = []
    for (first, last), served in client.cluster_slots().items():
        node = client.get_node(*served["primary"])
        if node is None:
            raise UnavailableError(
                f"A node of the Redis Cluster took over the slots {first} to {last} just now.",
                remedy="Redis still serves the version before. `forecache store push` loads again.",
            )
        try:
            results.append(
                client.get_redis_connection(node).execute_command(
                    "EVAL", script, 0, *arguments(node.name), *names[int(first) : int(last) + 1]
                )
            )
        except ResponseError as error:
            raise UnavailableError(
                f"The Redis node {node.name} could not be asked for its slots: {error}.",
                remedy="While slots are moved, wait, then run `forecache store push`. It has to be Redis 7 or newer.",
            ) from None
    return results


def wait_for_replicas(client: Any) -> None:
    """Wait until a replica of each of a cluster's nodes that has one has all that was written before.

    Does nothing without a cluster. Raises UnavailableError if none has it within ten seconds.
    """
    if not is_cluster(client):
        return
    from redis.exceptions import MovedError

    slots = {served["primary"]: first for (first, _), served in client.cluster_slots().items()}
    for node in client.get_primaries():
        own, slot = client.get_redis_connection(node), slots.get((node.host, node.port))
        if slot is None or not own.info("replication").get("connected_slaves"):
            continue
        calls = own.pipeline(transaction=False)
        # WAIT waits for the writes of its own connection; this one comes after all others on the node.
        calls.set(f"forecache:written:{{{slot_tags()[slot]}}}", b"")
        calls.execute_command("WAIT", 1, _WAIT_MS)
        try:
            followed = calls.execute()[-1]
        except MovedError:
            followed = 0
        if not followed:
            raise UnavailableError(
                f"No replica of the Redis node {node.name} has what was loaded there.",
                remedy="Redis still serves the version before. Check its replicas, then run `forecache store push`.",
            )


@cache
def slot_tags() -> list[str]:
    """For each slot of a cluster, a hash tag that leads to it."""
    from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

    tags = dict[int, str]()
    for number in count():
        tags.setdefault(key_slot(str(number).encode()), str(number))
        if len(tags) == REDIS_CLUSTER_HASH_SLOTS:
            break
    return [tags[slot] for slot in range(REDIS_CLUSTER_HASH_SLOTS)]


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def is_cluster(client: Any) -> bool:
    return hasattr(client, "nodes_manager")
