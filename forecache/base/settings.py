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
from typing import get_origin

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as PydanticSettingsError

from forecache.base.errors import SettingsError
from forecache.base.setting_groups import (
    PROJECT_ROOT,
    ComputeSettings,
    LakeSettings,
    MessageSettings,
    ReaderSettings,
    RequestLogSettings,
    StreamSettings,
    TailSettings,
)

__all__ = ["PREFIX", "PROJECT_ROOT", "Settings", "given_variables", "load_settings", "unknown_variables"]

PREFIX = "FORECACHE_"
# Variables of the benchmarks, and those that Kubernetes sets for services that are named like this project.
_NO_SETTINGS = re.compile(r"FORECACHE_(BENCH_\w+|\w+_SERVICE_(HOST|PORT)\w*|\w+_PORT(_\d+_\w+)?)")


class Settings(
    MessageSettings, TailSettings, StreamSettings, RequestLogSettings, ReaderSettings, ComputeSettings, LakeSettings
):
    """One object with every setting; build it with `load_settings()`.

    The groups are listed last to first: pydantic takes the fields of the last base first.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of the Dagster UI in `make dev`.")

    @field_validator(
        "landing", "lake", "store", "mlflow_artifacts", "training_checkpoints",
        "reader_public_url", "dagster_public_url", "mlflow_public_url",
    )  # fmt: skip
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/") if value not in ("", "/") else value

    @cached_property
    def home_path(self) -> Path:
        """Absolute home folder; stages that write into it create it."""
        return self.home.expanduser().resolve()

    @cached_property
    def landing_uri(self) -> str:
        return self.landing or str(self.home_path / "landing")

    @cached_property
    def lake_uri(self) -> str:
        return self.lake or str(self.home_path / "lake")

    @property
    def lake_is_remote(self) -> bool:
        return "://" in self.lake_uri

    @cached_property
    def store_path(self) -> Path:
        if "://" in self.store:
            raise SettingsError(
                f"FORECACHE_STORE is {self.store!r}, and a store is a folder on this machine.",
                remedy="Name a folder; `forecache store pull` fills it from an object store, FORECACHE_STORE_REMOTE.",
            )
        return Path(self.store).expanduser().resolve() if self.store else self.home_path / "store"

    @cached_property
    def mlflow_tracking_uri(self) -> str:
        return _name_driver(self.mlflow_uri) or f"sqlite:///{self.home_path / 'mlflow' / 'mlflow.db'}"

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
    def request_log_path(self) -> Path:
        spool = self.request_log_spool
        return (spool.expanduser().resolve() if spool else self.home_path / "spool") / "request_log"

    @cached_property
    def dagster_home(self) -> Path:
        return self.home_path / "dagster"

    @property
    def dagster_database(self) -> str:
        """URL of Dagster's database as SQLAlchemy takes it; empty: SQLite in `dagster_home`."""
        return _name_driver(self.dagster_uri)

    def table_uri(self, table: str) -> str:
        """URI of a lake table as delta-rs takes it."""
        return f"{self.lake_uri}/{table}"


def _name_driver(uri: str) -> str:
    """A PostgreSQL URL with the driver psycopg2, which Dagster needs; the default of SQLAlchemy 2.1 is psycopg 3."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", uri)


def load_settings(**overrides: object) -> Settings:
    """Read the settings; keyword arguments win over the environment.

    Raises:
        SettingsError: A setting has a wrong value; the message names the variable, the value and the allowed values.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except PydanticSettingsError as error:  # JSON that cannot be read
        raise _json_error() from error
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "*"
        is_shown = field not in Settings.model_fields or Settings.model_fields[field].repr
        value = f"has the value {first.get('input')!r}" if is_shown else "has a value that is not shown"
        if field.endswith("_port") and str(first.get("input")).startswith("tcp://"):
            remedy = (
                "Kubernetes set it for a Service of that name: write `enableServiceLinks: false` in the pod's spec."
            )
        else:
            remedy = "`forecache settings` shows what each setting takes."
        if field == "prices":
            # Its values are pairs, which pydantic calls tuples.
            remedy = 'Write two numbers for each name, such as {"cpu": [0.05, 0.02]}.'
            value = f"has the value {first.get('input')!r} for {'.'.join(map(str, first['loc'][1:])) or 'all'}"
        raise SettingsError(f"Setting FORECACHE_{field.upper()} {value}: {first['msg']}.", remedy=remedy) from None


def _json_error() -> SettingsError:
    for name, text in given_variables().items():
        field = Settings.model_fields.get(name.removeprefix(PREFIX).lower())
        if field is None or get_origin(field.annotation) is not dict:
            continue
        try:
            json.loads(text)
        except ValueError as error:
            return SettingsError(
                f"Setting {name} is no JSON: {error}.",
                remedy='Write it like {"name": "value"}; `forecache settings` shows what each setting takes.',
            )
    return SettingsError("A setting is no JSON.", remedy="`forecache settings` shows what each setting takes.")


def given_variables() -> dict[str, str]:
    """The FORECACHE_* variables of the environment and of .env, as they are written; the environment wins."""
    from dotenv import dotenv_values

    given = {**dotenv_values(".env"), **os.environ}
    return {name.upper(): text or "" for name, text in given.items() if name.upper().startswith(PREFIX)}


def unknown_variables() -> dict[str, str]:
    """Variables that look like settings and are not, each with the most similar setting, or ""."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(name for name in given_variables() if name not in known and not _NO_SETTINGS.fullmatch(name))
    return {name: _closest_setting(name.removeprefix(PREFIX)) for name in unknown}


def _closest_setting(name: str) -> str:
    close = difflib.get_close_matches(name, [known.upper() for known in Settings.model_fields], n=1)
    return f"{PREFIX}{close[0]}" if close else ""
