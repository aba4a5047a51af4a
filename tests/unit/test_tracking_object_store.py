"""What MLflow is told of the object store: the project's options, under the names that boto3 and MLflow read."""

import os
from pathlib import Path

import pytest

from forecache.base.settings import load_settings
from forecache.models.tracking.client import object_store_variables, prepare_object_store

OPTIONS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "orchard"}


@pytest.mark.parametrize("prefix", ["AWS_", "aws_", ""])
def test_options_are_known_by_each_name_that_delta_rs_takes(prefix: str) -> None:
    options = {
        f"{prefix}{name}": value
        for name, value in {
            "region": "eu-west-1",
            "endpoint": "http://minio:9000",
            "token": "t",
            "allow_http": "true",
        }.items()
    }
    assert object_store_variables(options) == {
        "AWS_DEFAULT_REGION": "eu-west-1",
        "MLFLOW_S3_ENDPOINT_URL": "http://minio:9000",
        "AWS_SESSION_TOKEN": "t",
    }


def test_without_options_a_workload_s_own_role_stays() -> None:
    assert object_store_variables({}) == {}


def test_a_bucket_as_a_host_name_is_one_for_mlflow_too() -> None:
    options = {"aws_virtual_hosted_style_request": "true"}
    assert object_store_variables(options) == {"MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "virtual"}


def test_keys_of_the_options_are_not_used_with_a_session_of_other_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"AWS_SESSION_TOKEN": "old", "AWS_ACCESS_KEY_ID": "you", "AWS_SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(name, value)
    prepare_object_store(load_settings(mlflow_artifacts=str(tmp_path), storage_options=OPTIONS))
    assert {name: os.environ.get(name) for name in OPTIONS} == OPTIONS
    assert "AWS_SESSION_TOKEN" not in os.environ


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_a_postgresql_url_means_the_driver_that_dagster_and_mlflow_take(scheme: str) -> None:
    settings = load_settings(mlflow_uri=f"{scheme}://me@db/mlflow", dagster_uri=f"{scheme}://me@db/dagster")
    assert settings.mlflow_tracking_uri == "postgresql+psycopg2://me@db/mlflow"
    assert settings.dagster_database == "postgresql+psycopg2://me@db/dagster"


def test_other_urls_stay_as_they_are() -> None:
    for uri in ("https://mlflow.example.com", "postgresql+psycopg://db/mlflow"):
        assert load_settings(mlflow_uri=uri).mlflow_tracking_uri == uri
    assert load_settings().dagster_database == ""
