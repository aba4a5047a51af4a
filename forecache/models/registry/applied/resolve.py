"""Resolve URIs of registered models, and number models that MLflow does not number."""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from forecache.base.errors import NotFoundError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import begin_work
from forecache.declare import RegisteredModel, Trainable
from forecache.lake.ledger import StageRecord, all_records
from forecache.lake.stage_runner import Stage, StageOutcome, StaleWork
from forecache.models.registry.model_versions import ModelVersion, read_version
from forecache.models.tracking import records
from forecache.models.tracking.client import connect_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient


_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def resolve_uri(settings: Settings, pipeline: Trainable, model: RegisteredModel) -> ModelVersion:
    """The version that a URI names now, by number or alias; the model of a run has the version 0.

    NotFoundError if there is no such model, version, alias or run, UnavailableError if MLflow does not answer.
    """
    recorded = _find_recorded(settings, model.uri)
    if recorded is not None:
        return recorded
    from mlflow.exceptions import MlflowException

    try:
        client = connect_mlflow(settings)
        return _look_up(client, pipeline, model.uri)
    except MlflowException as error:
        if error.error_code not in _UNKNOWN:
            raise unavailable_error(model.uri, error) from None
        raise NotFoundError(
            f"MLflow has no {model.uri}: {mlflow_message(error)}.",
            remedy="Register the model or give the alias in MLflow, or correct the URI of the declaration.",
        ) from None


def registered_versions(settings: Settings, model: RegisteredModel) -> list[ModelVersion]:
    """All versions of the registered model, newest first; empty if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        client = connect_mlflow(settings)
        found = client.search_model_versions(f"name='{model.name}'", max_results=1000)
        named = client.get_registered_model(model.name).aliases if found else {}
    except MlflowException as error:
        raise unavailable_error(model.uri, error) from None
    versions = sorted(map(_convert_version, found), key=lambda version: -version.version)
    return [replace(v, aliases=tuple(sorted(a for a in named if int(named[a]) == v.version))) for v in versions]


def unavailable_error(uri: str, error: Exception) -> UnavailableError:
    """The error for an MLflow that does not answer; raise it from None, as its cause may hold credentials."""
    return UnavailableError(
        f"MLflow cannot be asked for {uri}: {mlflow_message(error)}.",
        remedy="What was scored and published stays. Run again when the server of FORECACHE_MLFLOW_URI answers.",
    )


def mlflow_message(error: Exception) -> str:
    """The first line of an error's message, without user and password of a server."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(" failed with exception ")
    return re.sub(r"//[^/@\s]*@", "//", f"{said[0]} failed" if said[1] else said[0].rstrip("."))


def find_version(settings: Settings, model: RegisteredModel, number: int) -> ModelVersion | None:
    """A version of the registered model, None if it was deleted."""
    recorded = records.find_version(settings, model.name, number=number)
    if recorded is not None:
        return _convert_version(recorded)
    from mlflow.exceptions import MlflowException

    try:
        return _convert_version(connect_mlflow(settings).get_model_version(model.name, str(number)))
    except MlflowException as error:
        if error.error_code in _UNKNOWN:
            return None
        raise unavailable_error(model.uri, error) from None


def _find_recorded(settings: Settings, uri: str) -> ModelVersion | None:
    """The version that a URI of a registered model names, without MLflow; None if MLflow has to be asked."""
    scheme, _, rest = uri.partition(":/")
    name, _, last = rest.rpartition("@" if "@" in rest else "/")
    is_alias = "@" in rest
    if scheme != "models" or not (last.isdigit() or is_alias) or last.lower() == "latest":
        return None
    found = records.find_version(settings, name.strip("/"), **({"alias": last} if is_alias else {"number": int(last)}))
    return None if found is None else _convert_version(found)


def _look_up(client: "MlflowClient", pipeline: Trainable, uri: str) -> ModelVersion:
    scheme, _, rest = uri.partition(":/")
    if scheme == "runs":
        run = client.get_run(rest.partition("/")[0]).info
        started = datetime.fromtimestamp(run.start_time / 1000, timezone.utc)
        return make_numbered_version(pipeline, 0, uri, run_id=run.run_id, created_at=started)
    if "@" in rest:
        return _convert_version(client.get_model_version_by_alias(*rest.rsplit("@", 1)))
    return _convert_version(client.get_model_version(*rest.rsplit("/", 1)))


def _convert_version(version: Any) -> ModelVersion:
    # Tags of a model that others registered mean what they like: none is read.
    return replace(read_version(version, version.aliases, {}), tags=dict(version.tags), gate="none")


def make_numbered_version(
    pipeline: Trainable, number: int, uri: str, *, run_id: str = "", created_at: datetime | None = None
) -> ModelVersion:
    """The version of a model whose number is from the ledger."""
    return ModelVersion(pipeline.name, number, run_id, uri, (), "none", created_at or datetime.now(timezone.utc))


STAGE = "model"


def recorded_models(settings: Settings, subject: str) -> dict[int, StageRecord]:
    """The recorded models of a pipeline by number, from 1; `inputs` of a row identifies the model."""
    first: dict[str, StageRecord] = {}
    for row in all_records(settings, STAGE, subject):
        first.setdefault(row.inputs, row)
    return dict(enumerate(first.values(), start=1))


def number_model(settings: Settings, subject: str, identity: str, details: Mapping[str, Any], *, run_id: str) -> int:
    """The model's version number; records the model under the next number if it is new.

    The number is the position among the ledger's rows about the pipeline's models. Rows are only appended, so two
    machines that use a new model at once agree on its number.
    """
    for _ in range(2):  # look, record, look again
        for number, row in recorded_models(settings, subject).items():
            if row.inputs == identity:
                return number
        stage, known = Stage(settings, STAGE, subject, run_id), all_records(settings, STAGE, subject)
        stale = StaleWork(stage, {None: identity}, {None: known[-1] if known else None})
        begin_work(f"recording the model {identity}", stale=stale)
        stage.record({None: StageOutcome(0, details)}, {None: identity}, time.perf_counter() - stage.started)
    raise AssertionError(f"The ledger does not show {identity!r}, which was recorded.")
