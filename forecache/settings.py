"""All settings of Forecache, from FORECACHE_* variables or a .env file. Nothing else reads the environment.

Locations may be local folders or URIs (`s3://bucket/prefix`): delta-rs takes them as they are, Spark takes the
same bucket as `s3a://`.

A project is a package with one module per pipeline in its sub-package `pipelines`; FORECACHE_PROJECT names it. Nothing
else is needed. It may also have `landing.py` (the data of `forecache demo`), `definitions.py` (own assets and jobs for
Dagster) and `dagster.yaml` (Dagster's instance).
"""

import difflib
import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Literal, get_origin

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as PydanticSettingsError

from forecache.errors import SettingsError

PREFIX = "FORECACHE_"
# Those of the benchmarks, and what Kubernetes sets for services that are named like this project.
_NO_SETTINGS = re.compile(r"FORECACHE_(BENCH_\w+|\w+_SERVICE_(HOST|PORT)\w*|\w+_PORT(_\d+_\w+)?)")
PROJECT_ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """One object with every setting; build it with `load_settings()`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

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
        description="Prices of an hour, [on demand, spot], of a device by a part of its name, of a core as cpu (JSON).",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Training device; auto takes GPUs if any.")
    code_version: str = Field(
        "", description="Code version recorded with every run. Default: the git commit, or a hash of the source."
    )

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
    redis_url: str = Field("", description="Redis or Redis Cluster for pipelines whose store is `redis`.")
    store_remote: str = Field(
        "", description="Folder or s3:// URI to which versions are pushed and from which replicas pull."
    )

    smtp_host: str = Field("", description="SMTP server that mailings are handed to.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Its port.")
    smtp_security: Literal["starttls", "ssl", "none"] = Field(
        "starttls", description="How the connection is encrypted; none only on a network of one's own."
    )
    smtp_user: str = Field("", description="User to log in as; none: no login.")
    smtp_password: str = Field("", repr=False, description="The user's password.")
    smtp_timeout_s: float = Field(30.0, gt=0, le=60, description="Time that the SMTP server has for an answer.")

    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of the Dagster UI in `make dev`.")

    @field_validator("landing", "lake", "store", "mlflow_artifacts", "training_checkpoints")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/") if value not in ("", "/") else value

    @cached_property
    def home_path(self) -> Path:
        """Absolute home folder; created by the stages that write into it."""
        return self.home.expanduser().resolve()

    @cached_property
    def landing_uri(self) -> str:
        return self.landing or str(self.home_path / "landing")

    @cached_property
    def lake_uri(self) -> str:
        return self.lake or str(self.home_path / "lake")

    @property
    def lake_is_remote(self) -> bool:
        """Whether the lake is in an object store."""
        return "://" in self.lake_uri

    @cached_property
    def store_path(self) -> Path:
        return Path(self.store).expanduser().resolve() if self.store else self.home_path / "store"

    @cached_property
    def mlflow_tracking_uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{self.home_path / 'mlflow' / 'mlflow.db'}"

    @cached_property
    def mlflow_artifact_root(self) -> str:
        return self.mlflow_artifacts or (self.home_path / "mlflow" / "artifacts").as_uri()

    @cached_property
    def training_path(self) -> Path:
        """Folder of training runs: specifications, checkpoints, metrics, exported models."""
        return self.home_path / "training"

    @cached_property
    def reports_path(self) -> Path:
        return self.home_path / "reports"

    @cached_property
    def dagster_home(self) -> Path:
        return self.home_path / "dagster"

    def table_uri(self, table: str) -> str:
        """URI of a lake table as delta-rs takes it."""
        return f"{self.lake_uri}/{table}"


def load_settings(**overrides: object) -> Settings:
    """Read the settings; keyword arguments win over the environment.

    Raises:
        SettingsError: A setting has a wrong value; the message names the variable, the value and what it takes.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except PydanticSettingsError as error:  # JSON that cannot be read
        raise _unreadable() from error
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "*"
        is_shown = field not in Settings.model_fields or Settings.model_fields[field].repr
        value = f"has the value {first.get('input')!r}" if is_shown else "has a value that is not shown"
        raise SettingsError(
            f"Setting FORECACHE_{field.upper()} {value}: {first['msg']}.",
            remedy="`forecache settings` shows what each setting takes.",
        ) from None


def _unreadable() -> SettingsError:
    """The error for the first setting whose text is no JSON."""
    for name, text in given_variables().items():
        field = Settings.model_fields.get(name.removeprefix(PREFIX).lower())
        if field is None or not _takes_json(field.annotation):
            continue
        try:
            json.loads(text)
        except ValueError as error:
            return SettingsError(
                f"Setting {name} is no JSON: {error}.",
                remedy='Write it like {"name": "value"}; `forecache settings` shows what each setting takes.',
            )
    return SettingsError("A setting is no JSON.", remedy="`forecache settings` shows what each setting takes.")


def _takes_json(kind: object) -> bool:
    return get_origin(kind) is dict


def given_variables() -> dict[str, str]:
    """The FORECACHE_* variables of the environment and of .env, as they are written; the environment wins."""
    from dotenv import dotenv_values

    given = {**dotenv_values(".env"), **os.environ}
    return {name.upper(): text or "" for name, text in given.items() if name.upper().startswith(PREFIX)}


def unknown_variables() -> dict[str, str]:
    """Variables that look like settings and are none, each with the setting that may be meant, or ""."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(name for name in given_variables() if name not in known and not _NO_SETTINGS.fullmatch(name))
    return {name: _meant(name.removeprefix(PREFIX)) for name in unknown}


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, [known.upper() for known in Settings.model_fields], n=1)
    return f"{PREFIX}{close[0]}" if close else ""
