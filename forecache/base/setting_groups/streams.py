"""The settings of streams, and of the tailer, which fills live layers from the tables of streams."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class StreamSettings(BaseSettings):
    """Kafka's brokers, and how streams run."""

    kafka_brokers: str = Field(
        "localhost:9092", description="Kafka's brokers, as host:port, several separated by commas."
    )
    kafka_options: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Further options of Kafka's client (JSON), as librdkafka names them, such as user and password.",
    )
    stream_keep_running: bool = Field(
        False,
        description="Lets Dagster's sensor `streams` start the declared streams that do not run, on its own machine; "
        "else it only reports them.",
    )
    stream_most_bad: float = Field(
        0.01, ge=0, le=1, description="Share of a stream's messages that may be bad; above it an alert is sent."
    )
    stream_checkpoints: str = Field(
        "", description="Folder or URI of the checkpoints of streams with Spark. Default: HOME/streams."
    )


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
