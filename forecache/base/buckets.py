"""Buckets of object stores through obstore, an optional extra, with the storage options of the lake."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from forecache.base.errors import UnavailableError

SCHEMES = ("s3", "s3a", "gs", "az", "abfss")


def open_bucket(uri: str, options: Mapping[str, str], *, patience_s: float | None = None) -> Any:
    """An obstore store whose paths are relative to the URI.

    Args:
        uri: Starts with one of `SCHEMES` and `://`.
        options: Object store options as delta-rs takes them.
        patience_s: Seconds for which a failing request is retried; None: obstore's default, some minutes.

    Raises:
        UnavailableError: `obstore` is not installed.
    """
    try:
        from obstore.store import from_url
    except ImportError:
        raise UnavailableError(f"{uri} needs the package obstore.", remedy="Install forecache[s3].") from None
    config: Any = {key.lower(): value for key, value in options.items()}
    client: Any = {"timeout": "300s"}
    for name in ("allow_http", "aws_allow_http"):
        if config.pop(name, "false").lower() in ("true", "1"):
            client["allow_http"] = True
    for name in ("conditional_put", "aws_conditional_put", "aws_s3_allow_unsafe_rename"):
        config.pop(name, None)  # options of delta-rs only; obstore puts conditionally by ETag
    retry: Any = None
    if patience_s is not None:
        client["timeout"] = client["connect_timeout"] = f"{patience_s:g}s"
        retry = {"retry_timeout": timedelta(seconds=patience_s)}
    return from_url(uri.replace("s3a://", "s3://", 1), config=config, client_options=client, retry_config=retry)


def tag_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Tag and version that identify the state of an object, for a conditional put."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}
