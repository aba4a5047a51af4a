"""A client of Redis or Redis Cluster."""

from typing import Any

from forecache.base.errors import SettingsError, UnavailableError


def connect(url: str, *, timeout_s: float | None = None) -> Any:
    """Connect to Redis or, if the server runs in cluster mode, to Redis Cluster; values are bytes.

    Args:
        timeout_s: Longest wait for a connection and for an answer, without retries; None: no limit.

    Raises:
        SettingsError: No URL is set.
        UnavailableError: The redis package is not installed, or the server does not answer.
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
    try:
        if client.info("server").get("redis_mode") == "cluster":
            client.close()
            return redis.RedisCluster.from_url(url, **waits)
    except redis.RedisError as error:
        raise UnavailableError(
            f"Redis at {_without_password(url)} does not answer: {error}.",
            remedy="Start it, or set FORECACHE_REDIS_URL.",
        ) from None
    return client


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


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def is_cluster(client: Any) -> bool:
    return hasattr(client, "nodes_manager")
