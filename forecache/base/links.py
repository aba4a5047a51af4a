"""Addresses of screens in a browser: the page on a name, Dagster's assets and runs, MLflow's versions and runs.

Each is "" if the settings name no address of its server, or if there is nothing to link to.
"""

from urllib.parse import quote

from forecache.base.settings import Settings


def status_page_url(settings: Settings, name: str) -> str:
    """The server's page on a declaration."""
    return _join(settings.reader_public_url, "status", name)


def model_report_url(settings: Settings, name: str, version: int) -> str:
    """The report of a model version, which the server shows if it has the file."""
    page = status_page_url(settings, name)
    return f"{page}?report={version}" if page else ""


def asset_url(settings: Settings, asset: str) -> str:
    return _join(settings.dagster_public_url, "assets", asset)


def dagster_run_url(settings: Settings, run_id: str) -> str:
    return _join(settings.dagster_public_url, "runs", run_id)


def model_url(settings: Settings, name: str) -> str:
    """The versions of a registered model in MLflow."""
    return _join(settings.mlflow_public_url, "#/models", name)


def model_version_url(settings: Settings, name: str, version: int | str) -> str:
    return _join(settings.mlflow_public_url, "#/models", name, "versions", str(version))


def mlflow_run_url(settings: Settings, experiment_id: str, run_id: str) -> str:
    return _join(settings.mlflow_public_url, "#/experiments", experiment_id, "runs", run_id)


def _join(address: str, *parts: str) -> str:
    return "/".join([address, *(quote(part, safe="#/") for part in parts)]) if address and all(parts) else ""
