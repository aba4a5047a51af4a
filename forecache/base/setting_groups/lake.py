"""The settings of the lake, the store and the registry, of Spark, and of training and scoring."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

PROJECT_ROOT = Path(__file__).resolve().parents[3]


class LakeSettings(BaseSettings):
    """Locations of the project, its tables and its models, and the configuration of Spark."""

    home: Path = Field(Path(".forecache"), description="Folder that holds everything the project writes.")
    project: str = Field(
        "dagster_project", description="Package of the project, with one module a pipeline in `pipelines/`."
    )

    landing: str = Field("", description="Landing zone: a folder of one folder per source. Default: HOME/landing.")
    lake: str = Field("", description="Folder or URI of the Delta tables. Default: HOME/lake.")
    store: str = Field("", description="Folder of the precompute store. Default: HOME/store.")
    storage_options: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Object store options (JSON), as delta-rs takes them; Spark gets the same.",
    )

    databases: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description='Databases that sources query, by name (JSON), such as {"shop": "postgresql://user:secret@host/db"}.',
    )

    mlflow_uri: str = Field("", description="MLflow tracking and registry URI. Default: SQLite in HOME/mlflow.")
    mlflow_artifacts: str = Field("", description="MLflow artifact root. Default: HOME/mlflow/artifacts.")

    dagster_uri: str = Field(
        "",
        repr=False,
        description="PostgreSQL database of Dagster's instance, such as postgresql://user:secret@host/dagster. "
        "Default: SQLite in HOME/dagster.",
    )

    spark_master: str = Field("local[*]", description="Spark master.")
    spark_driver_memory: str = Field("2g", description="Spark driver memory; on a local master all of Spark's.")
    spark_conf: dict[str, str] = Field(
        default_factory=dict, repr=False, description="Further Spark configuration (JSON)."
    )
    spark_jars: Path = Field(PROJECT_ROOT / ".tools" / "jars", description="Folder of the Delta jars for Spark.")
    spark_jvm: Literal["auto", "short", "long"] = Field(
        "auto",
        description="Compiler and collector of Spark's JVM: short runs start sooner, long ones run faster. "
        "auto: long where the lake is remote or above 256 MB.",
    )
    java_home: str = Field("", description="Java 17 or 21 for Spark. Default: JAVA_HOME, then PATH.")


class ComputeSettings(BaseSettings):
    """Workers, memory and devices of training and scoring, and their prices."""

    training_workers: int = Field(2, ge=1, description="torchrun workers per node.")
    training_nodes: str = Field(
        "1", pattern=r"^[1-9]\d*(:[1-9]\d*)?$", description="torchrun --nnodes: a number or min:max."
    )
    training_rendezvous: str = Field("", description="torchrun --rdzv-endpoint host:port for several nodes.")
    training_max_restarts: int = Field(3, ge=0, description="Worker-group restarts before a training run fails.")
    training_checkpoints: str = Field(
        "", description="Folder or s3:// URI of training checkpoints. Default: in each run's folder."
    )
    scoring_batch_rows: int = Field(0, ge=0, description="Rows a model scores at once; 0: calibrated on a sample.")
    scoring_worker_memory_mb: int = Field(
        1024, ge=64, description="Memory of a scoring worker; its batches take up to a quarter of it."
    )
    prices: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="Prices (JSON) of an hour, [on demand, spot], of a device by a part of its name, of a core as cpu, "
        "of a reader as replica; and of a GB for a month, [on disks, in an object store], as storage.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Training device; auto takes GPUs if any.")
    code_version: str = Field(
        "", description="Code version recorded with every run. Default: the git commit, or a hash of the source."
    )
