"""All settings of Forecache, from FORECACHE_* variables or a .env file, and of a chosen environment from its file.
Nothing else reads the variables.

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
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import get_origin

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as PydanticSettingsError

from forecache.base.environments import (
    LOCAL,
    TRIAL_FILE,
    TRIAL_VALUES,
    NamedEnvironment,
    list_environments,
    read_environment,
    read_trial_lake,
    require_name,
)
from forecache.base.errors import NotFoundError, SettingsError
from forecache.base.setting_groups import (
    PROJECT_ROOT,
    ComputeSettings,
    EnvironmentSettings,
    LakeSettings,
    MessageSettings,
    ReaderSettings,
    RequestLogSettings,
    StreamSettings,
    TailSettings,
)

__all__ = [
    "PREFIX",
    "PROJECT_ROOT",
    "Settings",
    "given_variables",
    "load_settings",
    "trial_settings",
    "unknown_variables",
]

PREFIX = "FORECACHE_"
# Variables of the benchmarks, and those that Kubernetes sets for services that are named like this project.
_NO_SETTINGS = re.compile(r"FORECACHE_(BENCH_\w+|\w+_SERVICE_(HOST|PORT)\w*|\w+_PORT(_\d+_\w+)?)")


class Settings(
    MessageSettings,
    TailSettings,
    StreamSettings,
    RequestLogSettings,
    ReaderSettings,
    ComputeSettings,
    LakeSettings,
    EnvironmentSettings,
):
    """One object with every setting; build it with `load_settings()`.

    The groups are listed last to first: pydantic takes the fields of the last base first.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True)

    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of the Dagster UI in `make dev`.")
    _base: "Settings | None" = PrivateAttr(None)
    _chosen: NamedEnvironment | None = PrivateAttr(None)

    @field_validator(
        "landing", "lake", "store", "trials", "mlflow_artifacts", "training_checkpoints",
        "reader_public_url", "dagster_public_url", "mlflow_public_url",
    )  # fmt: skip
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/") if value not in ("", "/") else value

    @cached_property
    def home_path(self) -> Path:
        """Absolute home folder; stages that write into it create it."""
        return self.home.expanduser().resolve()

    @property
    def environment(self) -> str:
        """Name of the chosen environment, or ENVIRONMENT/TRIAL; "" if the variables alone say what is meant."""
        return self.env

    @property
    def named_environment(self) -> NamedEnvironment | None:
        """The environment's part of the file of environments; None without one, and for a trial."""
        return self._chosen

    @property
    def base(self) -> "Settings | None":
        """Settings of the environment that a trial defers to, and only reads; None if this is no trial."""
        return self._base

    @cached_property
    def trials_path(self) -> Path:
        """Folder with a home for each trial that defers to this environment."""
        home = self.home_path
        is_folder = self.trials and "://" not in self.trials
        return Path(self.trials).expanduser().resolve() if is_folder else home.with_name(f"{home.name}-trials")

    @property
    def trials_uri(self) -> str:
        """Prefix of a bucket with a lake for each trial, if the lake is in that bucket."""
        return self.trials if "://" in self.trials else f"{self.lake_uri}-trials"

    def refuse_in_trial(self, action: str) -> None:
        """Raise SettingsError if this is a trial, whose settings allow nothing that leaves its home."""
        if self._base is not None:
            environment = self.env.partition("/")[0]
            raise SettingsError(
                f"The trial {self.env!r} does not {action}: it touches nothing outside its home.",
                remedy=f"Make the change in the environment {environment!r}, and do it there.",
            )

    def process_variables(self) -> dict[str, str]:
        """Variables that a process of one's own is started with, so that it loads these settings."""
        of = self._base or self  # a trial's own follow from its name
        found = {
            "HOME": str(of.home_path),
            "PROJECT": self.project,
            "LAKE": of.lake_uri,
            "STORAGE_OPTIONS": json.dumps(self.storage_options),
            "TRIALS": of.trials,
            "ENV": self.env,
            "SERVICE": of.env,
        }
        return {f"{PREFIX}{name}": value for name, value in found.items()}

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


def load_settings(environment: str | None = None, **overrides: object) -> Settings:
    """Read the settings of an environment; keyword arguments win over the file of environments and the variables.

    Args:
        environment: Its name, or ENVIRONMENT/TRIAL; "": what the variables alone say. None: as FORECACHE_ENV says,
            which does not choose a protected environment unless FORECACHE_SERVICE names it, too.

    Raises:
        NotFoundError: There is no such environment or trial.
        SettingsError: A setting has a wrong value; the message names the variable, the value and the allowed values. Or
            a variable contradicts the environment's file.
    """
    given = _build(overrides)
    name, slash, trial = (given.env if environment is None else environment).partition("/")
    if slash:
        settings = trial_settings(_load_base(name, given), trial, **overrides)
        if not (settings.home_path / TRIAL_FILE).is_file():
            raise NotFoundError(
                f"There is no trial {trial!r} of the environment {name!r}.",
                remedy=f"`forecache try --name {trial}` makes it, and `forecache trials` lists those that there are.",
            )
        return settings
    if not name:
        return given if not given.env else _build({**overrides, "env": ""})
    chosen = read_environment(given.environments, name, known=Settings.model_fields)
    if chosen.is_protected and environment is None and given.service != name:
        raise SettingsError(
            f"The environment {name!r} is protected, and FORECACHE_ENV alone does not choose it.",
            remedy=f"Give --env {name}; a service sets FORECACHE_SERVICE={name}, too.",
        )
    settings = _build({**chosen.values, **overrides, "env": name}, chosen)
    _refuse_contradiction(given, settings, chosen, overrides)
    settings._chosen = chosen
    return settings


def _load_base(name: str, given: Settings) -> Settings:
    """The environment that a trial defers to, which it only reads; "local" is what the variables alone say."""
    is_none = name == LOCAL and LOCAL not in list_environments(given.environments)
    return load_settings("" if is_none else name)


def trial_settings(base: Settings, name: str, **overrides: object) -> Settings:
    """The settings of a trial that defers to an environment."""
    name = require_name(name, kind="a trial")
    values = {key: getattr(base, key) for key in Settings.model_fields}
    home = base.trials_path / name
    own = {"home": home, "landing": base.landing_uri, "env": f"{base.env or LOCAL}/{name}"}
    made = _build({**values, **overrides, **TRIAL_VALUES, **own, "lake": read_trial_lake(home)})
    made._base = base
    return made


def _refuse_contradiction(
    given: Settings, settings: Settings, chosen: NamedEnvironment, overrides: Mapping[str, object]
) -> None:
    """SettingsError if a variable says something else than the environment's file: nobody can tell which is meant."""
    variables = given_variables()
    for key in chosen.values.keys() - overrides.keys():
        variable = f"{PREFIX}{key.upper()}"
        ours, theirs = getattr(settings, key), getattr(given, key)
        if variable in variables and _comparable(ours) != _comparable(theirs):
            may_have_password = "@" in f"{ours}{theirs}"  # as a URL
            is_shown = Settings.model_fields[key].repr and key not in chosen.secrets and not may_have_password
            says, has = (
                (f" is {str(theirs)!r}", f" has {str(ours)!r}") if is_shown else (" is set", " has another value")
            )
            raise SettingsError(
                f"{variable}{says}, and the environment {chosen.name!r} of {chosen.file}{has} for it.",
                remedy=f"Unset {variable}, or do not choose the environment.",
            )


def _comparable(value: object) -> object:
    is_path = isinstance(value, Path) or (isinstance(value, str) and "/" in value and "://" not in value)
    return str(Path(str(value)).expanduser().resolve()) if is_path else value


def _build(values: Mapping[str, object], chosen: NamedEnvironment | None = None) -> Settings:
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except PydanticSettingsError as error:  # JSON that cannot be read
        raise _json_error() from error
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "*"
        is_shown = field not in Settings.model_fields or Settings.model_fields[field].repr
        is_shown = is_shown and not (chosen and field in chosen.secrets)
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
        of_file = chosen is not None and field in chosen.values
        what = f"{field!r} of the environment {chosen.name!r}" if of_file and chosen else f"FORECACHE_{field.upper()}"
        raise SettingsError(f"Setting {what} {value}: {first['msg']}.", remedy=remedy) from None


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
