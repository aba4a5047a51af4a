"""The settings of streams, and of the tailer, which fills live layers from the tables of streams."""

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
