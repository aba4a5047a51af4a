"""The settings of the tailer, which fills live layers from the tables of streams."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class TailSettings(BaseSettings):
    """The process that fills live layers, its polling, and its comparisons with the tables."""

    stream_tailer: Literal["auto", "off"] = Field(
        "auto",
        description="auto: `forecache serve` fills the live layers of its stores where the extra `lake` is installed; "
        "off: `forecache stream tail` does, beside it.",
    )
    stream_poll_s: float | None = Field(
        None,
        gt=0,
        le=60,
        description="Seconds between looks for new commits. Default: 0.05 for a lake in a folder, else 1.",
    )
    stream_verify_s: float = Field(
        60.0,
        ge=0.1,
        description="Least seconds between comparisons of a live layer with the table of its stream; one that takes "
        "long comes more rarely.",
    )
