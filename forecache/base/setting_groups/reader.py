"""The settings of the reader, of its request log, and of the remote that published versions are copied from."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class ReaderSettings(BaseSettings):
    """Limits of the reader, and the remote of published versions."""

    reader_host: str = Field("127.0.0.1", description="Address the reader listens on.")
    reader_port: int = Field(8080, ge=1, le=65535, description="Port the reader listens on.")
    reader_workers: int = Field(1, ge=1, description="Reader worker processes; they share the mapped pages.")
    reader_tokens: Path | None = Field(None, description="File of hashed bearer tokens; none: no authentication.")
    reader_anonymous: bool = Field(
        False, description="Lets a reader without tokens listen on other addresses than the machine's own."
    )
    reader_max_keys: int = Field(1000, ge=1, description="Most keys in one request.")
    reader_max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest request body.")
    reader_max_connections: int = Field(
        4096, ge=16, description="Most connections of a reader worker; further ones wait in the kernel."
    )
    reader_max_bodies_bytes: int = Field(
        64 << 20, ge=1024, description="Most bytes of request bodies under way in a reader worker; more get 503."
    )
    reader_request_timeout_s: float = Field(10.0, gt=0, description="Time a client has to send its request.")
    reader_scrub_s: float = Field(
        300.0, ge=0, description="Pause between two slow reads of all that is served, for rotten bytes; 0: never."
    )
    reader_model_processes: int = Field(
        1, ge=1, le=64, description="Processes of a reader worker for a real-time model off its loop, beside a spare."
    )
    reader_model_growth_bytes: int = Field(
        1 << 30, ge=1 << 20, description="Memory that such a process may take beyond its start before it is replaced."
    )
    reader_replicas: int = Field(
        0, ge=0, description="Readers that run all day, for `forecache cost`; 0: not known, or ask Prometheus."
    )
    prometheus_url: str = Field(
        "", description="Prometheus that scrapes the readers; `forecache cost` and `advise` ask it what they did."
    )
    reader_drift_window_s: float = Field(
        3600.0, gt=0, description="Length of a window of live drift; the gauges cover the last one to two windows."
    )
    redis_url: str = Field("", description="Redis or Redis Cluster for pipelines whose store is `redis`.")
    store_remote: str = Field(
        "", description="Folder or s3:// URI to which versions are pushed and from which replicas pull."
    )


class RequestLogSettings(BaseSettings):
    """The spool where logged answers wait for the lake, its limits, and its committer."""

    request_log_spool: Path | None = Field(
        None, description="Folder where logged answers wait for the committer. Default: HOME/spool."
    )
    request_log_spool_bytes: int = Field(
        1 << 30,
        ge=1 << 20,
        description="Most bytes in the spool; further answers are not logged, and are counted as lost.",
    )
    request_log_memory_bytes: int = Field(
        16 << 20, ge=1 << 20, description="Most bytes of answers that wait in a reader worker's memory to be written."
    )
    request_log_delay_s: float = Field(
        5.0, ge=0.2, le=3600, description="Usual longest time from an answer to its row in the lake."
    )
    request_log_committer: Literal["auto", "off"] = Field(
        "auto",
        description="auto: `forecache serve` commits the request log where the extra `lake` is installed; "
        "off: `forecache log commit` does, beside it.",
    )
