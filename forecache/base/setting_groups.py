"""Groups of settings, each a class; `forecache.base.settings.Settings` combines them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings

URL = r"^(https?://[^/].*)?$"
"""An address that a browser opens, or nothing."""


class EnvironmentSettings(BaseSettings):
    env: str = Field(
        "",
        description="Environment of environments.toml, or ENVIRONMENT/TRIAL, as --env. Default: none; the variables "
        "alone count.",
    )
    service: str = Field(
        "",
        description="Protected environment that this service runs in. Without it, FORECACHE_ENV does not choose a "
        "protected one; --env does.",
    )
    environments: str = Field(
        "", description="File of the environments. Default: the nearest environments.toml in this folder or above."
    )
    trials: str = Field(
        "",
        description="Folder of this installation's trials; with a lake in a bucket, a prefix there for their lakes. "
        "Default: HOME-trials and LAKE-trials.",
    )


class StreamSettings(BaseSettings):
    kafka_brokers: str = Field("localhost:9092", description="Kafka's brokers: host:port, with commas between them.")
    kafka_options: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Further options of librdkafka, Kafka's client, such as user and password.",
    )
    stream_keep_running: bool = Field(
        False,
        description="Whether Dagster's sensor `streams` starts declared streams that do not run, on its own machine; "
        "else it only reports them.",
    )
    stream_most_bad: float = Field(
        0.01, ge=0, le=1, description="Share of bad messages of a stream above which an alert is sent."
    )
    stream_checkpoints: str = Field(
        "", description="Folder or URI of Spark streams' checkpoints. Default: HOME/streams."
    )


class TailSettings(BaseSettings):
    stream_tailer: Literal["auto", "off"] = Field(
        "auto",
        description="auto: `forecache serve` fills live layers if the extra `lake` is installed; off: `forecache "
        "stream tail` does.",
    )
    stream_poll_s: float | None = Field(
        None,
        gt=0,
        le=60,
        description="Seconds between looks for new commits. Default: 0.05 with a lake in a folder, else 1.",
    )
    stream_verify_s: float = Field(
        60.0,
        ge=0.1,
        description="Least seconds between comparisons of a live layer with its stream's table; long ones come more "
        "rarely.",
    )


class MessageSettings(BaseSettings):
    smtp_host: str = Field("", description="SMTP server for mailings.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Its port.")
    smtp_security: Literal["starttls", "ssl", "none"] = Field(
        "starttls", description="Encryption of the connection; none only on a network of your own."
    )
    smtp_user: str = Field("", description="User; none: no login.")
    smtp_password: str = Field("", repr=False, description="The user's password.")
    smtp_timeout_s: float = Field(30.0, gt=0, le=60, description="Time for an answer of the SMTP server.")

    alert_webhook: str = Field("", repr=False, description="URL that alerts are posted to as JSON.")
    alert_webhook_token: str = Field("", repr=False, description="Bearer token for that URL; none: no token is sent.")
    alert_slack: str = Field("", repr=False, description="URL of an incoming webhook in Slack's format.")
    alert_alertmanager: str = Field(
        "", repr=False, description="Base URL of a Prometheus Alertmanager, such as http://alertmanager:9093."
    )
    alert_email: str = Field("", description="Addresses for alerts by the SMTP server, with commas between them.")
    alert_email_from: str = Field("", description="Sender of these mails, such as Forecache <forecache@example.org>.")
    alert_repeat_h: float = Field(24.0, ge=0, description="Hours after which a lasting alert is sent again; 0: never.")
    alert_messages_per_hour: int = Field(
        20, ge=1, description="Most messages to a receiver in an hour; further alerts go together in the next."
    )
    alert_timeout_s: float = Field(10.0, gt=0, le=60, description="Time for an answer of a receiver of alerts.")

    openlineage_url: str = Field(
        "", repr=False, description="Base URL of an OpenLineage server, such as http://marquez:5000."
    )
    openlineage_api_key: str = Field(
        "", repr=False, description="Bearer token for that server; none: no token is sent."
    )
    openlineage_file: str = Field("", description="File to which OpenLineage events are appended, one a line.")
    openlineage_namespace: str = Field(
        "", description="Namespace of jobs in OpenLineage events. Default: the project's package."
    )
    openlineage_stream_every_s: int = Field(
        60, ge=1, description="Seconds between the OpenLineage events of a running stream."
    )
    openlineage_code_url: str = Field(
        "", description="URL of the project's repository, for OpenLineage's source code location."
    )


class ReaderSettings(BaseSettings):
    reader_host: str = Field("127.0.0.1", description="Address the reader listens on.")
    reader_port: int = Field(8080, ge=1, le=65535, description="Port the reader listens on.")
    reader_public_url: str = Field(
        "",
        pattern=URL,
        description="Address of the server in people's browsers, such as https://forecache.example.org; Dagster's "
        "assets then link to it.",
    )
    reader_workers: int = Field(1, ge=1, description="Reader worker processes.")
    reader_tokens: Path | None = Field(None, description="File of hashed bearer tokens; none: no authentication.")
    reader_anonymous: bool = Field(
        False, description="Whether a reader without tokens may listen on other addresses than the machine's own."
    )
    reader_max_keys: int = Field(1000, ge=1, description="Most keys in one request.")
    reader_max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest request body.")
    reader_max_connections: int = Field(
        4096, ge=16, description="Most connections of a reader worker; further ones wait in the kernel."
    )
    reader_max_bodies_bytes: int = Field(
        64 << 20, ge=1024, description="Most bytes of request bodies under way in a worker; more get 503."
    )
    reader_request_timeout_s: float = Field(10.0, gt=0, description="Time a client has to send its request.")
    reader_drain_s: float = Field(
        2.0, ge=0, description="Seconds without a request after which a reader stops after a signal."
    )
    reader_max_drain_s: float = Field(
        0.0, ge=0, description="Most seconds of answering after the signal; 0: FORECACHE_READER_DRAIN_S."
    )
    reader_scrub_s: float = Field(
        300.0, ge=0, description="Pause between two slow checks of all served bytes; 0: never."
    )
    reader_waits_for_all: bool = Field(
        False,
        description="Whether a new reader is ready only once it has each live layer and model of the remote.",
    )
    reader_model_processes: int = Field(
        1, ge=1, le=64, description="Processes of a worker for a real-time model off its loop, besides a spare."
    )
    reader_model_growth_bytes: int = Field(
        1 << 30, ge=1 << 20, description="Growth of memory after which such a process is replaced."
    )
    reader_replicas: int = Field(
        0, ge=0, description="Readers that run all day, for `forecache cost`; 0: unknown, or ask Prometheus."
    )
    prometheus_url: str = Field(
        "", description="Prometheus that scrapes the readers, for `forecache cost` and `advise`."
    )
    reader_drift_window_s: float = Field(
        3600.0, gt=0, description="Window of live drift; gauges cover the last one to two."
    )
    redis_url: str = Field("", description="Redis or Redis Cluster for pipelines whose store is `redis`.")
    store_remote: str = Field("", description="Folder or s3:// URI of versions and releases, from which replicas pull.")


class RequestLogSettings(BaseSettings):
    request_log_spool: Path | None = Field(
        None, description="Folder in which logged answers wait for the committer. Default: HOME/spool."
    )
    request_log_spool_bytes: int = Field(
        1 << 30,
        ge=1 << 20,
        description="Most bytes in the spool; further answers are lost and counted.",
    )
    request_log_memory_bytes: int = Field(
        16 << 20, ge=1 << 20, description="Most bytes of answers in a worker's memory."
    )
    request_log_delay_s: float = Field(
        5.0, ge=0.2, le=3600, description="Usual longest time from an answer to its row in the lake."
    )
    request_log_committer: Literal["auto", "off"] = Field(
        "auto",
        description="auto: `forecache serve` commits the request log if the extra `lake` is installed; off: "
        "`forecache log commit` does.",
    )


PROJECT_ROOT = Path(__file__).resolve().parents[2]


class LakeSettings(BaseSettings):
    home: Path = Field(Path(".forecache"), description="Folder that holds everything the project writes.")
    project: str = Field(
        "dagster_project", description="Package of the project; `pipelines/` has a module for each pipeline."
    )

    landing: str = Field("", description="Landing zone, with a folder for each source. Default: HOME/landing.")
    lake: str = Field("", description="Folder or URI of the Delta tables. Default: HOME/lake.")
    store: str = Field("", description="Folder of the precompute store. Default: HOME/store.")
    storage_options: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Object store options of delta-rs; Spark gets the same.",
    )

    databases: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description='Databases of sources by name, such as {"shop": "postgresql://user:secret@host/db"}.',
    )

    mlflow_uri: str = Field("", description="MLflow tracking and registry URI. Default: SQLite in HOME/mlflow.")
    mlflow_artifacts: str = Field("", description="MLflow artifact root. Default: HOME/mlflow/artifacts.")

    mlflow_public_url: str = Field(
        "",
        pattern=URL,
        description="Address of MLflow's UI in people's browsers; Dagster and the server's pages then link to it.",
    )

    dagster_uri: str = Field(
        "",
        repr=False,
        description="PostgreSQL database of Dagster's instance, such as postgresql://user:secret@host/dagster. "
        "Default: SQLite in HOME/dagster.",
    )
    dagster_public_url: str = Field(
        "",
        pattern=URL,
        description="Address of Dagster's UI in people's browsers; the server's pages then link to it.",
    )
    schedules: Literal["off", "on"] = Field(
        "off", description="Whether Dagster's schedules run from the start; off: each is switched on in its UI."
    )
    dagster_runs: int | None = Field(
        None, ge=1, description="Most runs that Dagster's queue has at once. Default: 3 with PostgreSQL, else 1."
    )
    dagster_launcher: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Run launcher as in dagster.yaml: module, class, config. Default: a process for each run, on the "
        "machine of the code location.",
    )

    kept_contract_days: float = Field(
        7.0,
        ge=0,
        description="Days for which features that only the earlier release needs are still built and published, for a "
        "rollback to it, and for which those of a previous champion are kept.",
    )

    engine: Literal["auto", "spark", "arrow"] = Field(
        "auto",
        description="What carries out stages: Spark, or Arrow in the run's process, without Java. auto: Spark for "
        "functions on its frames, and for many rows if it has more cores; else Arrow.",
    )
    arrow_most_rows: int = Field(
        20_000_000,
        ge=0,
        description="Most rows of a stage for Arrow with auto, if Spark has more cores: on a cluster, or for a model "
        "in plain Python.",
    )
    spark_master: str = Field("local[*]", description="Spark master.")
    spark_driver_memory: str = Field("2g", description="Spark driver memory; on a local master all of Spark's.")
    spark_conf: dict[str, str] = Field(default_factory=dict, repr=False, description="Further Spark configuration.")
    spark_jars: Path = Field(PROJECT_ROOT / ".tools" / "jars", description="Folder of the Delta jars for Spark.")
    spark_jvm: Literal["auto", "short", "long"] = Field(
        "auto",
        description="Spark's JVM: short starts sooner, long runs faster. auto: long if the lake is remote or above "
        "256 MB.",
    )
    java_home: str = Field("", description="Java 17 or 21 for Spark. Default: JAVA_HOME, then PATH.")


class ComputeSettings(BaseSettings):
    training_workers: int = Field(2, ge=1, description="torchrun workers per node.")
    training_nodes: str = Field(
        "1", pattern=r"^[1-9]\d*(:[1-9]\d*)?$", description="torchrun --nnodes: a number or min:max."
    )
    training_rendezvous: str = Field("", description="torchrun --rdzv-endpoint host:port for several nodes.")
    training_max_restarts: int = Field(3, ge=0, description="Worker-group restarts before a training run fails.")
    training_checkpoints: str = Field(
        "",
        description="Folder or s3:// URI of trainings' checkpoints and results, for all machines. Default: a lake in "
        "a bucket, else each run's folder.",
    )
    scoring_batch_rows: int = Field(0, ge=0, description="Rows a model scores at once; 0: calibrated on a sample.")
    scoring_worker_memory_mb: int = Field(
        1024, ge=64, description="Memory of a scoring worker; its batches take up to a quarter of it."
    )
    prices: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="Prices of an hour, [on demand, spot], of a device by a part of its name, a core (cpu), a reader "
        "(replica); of a GB and month, [on disks, in an object store] (storage).",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Training device; auto takes GPUs if any.")
    code_version: str = Field(
        "", description="Code version recorded with every run. Default: the git commit, or a hash of the source."
    )
