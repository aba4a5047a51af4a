"""The settings of the request log of real-time models."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


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
