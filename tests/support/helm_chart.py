"""What Helm makes of deploy/helm for the examples and other values, and the pods and containers in it."""

import json
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import yaml
from store_services import INSTALL

from forecache.base.settings import PROJECT_ROOT

HELM = PROJECT_ROOT / "deploy" / "helm"
CHART = HELM / "forecache"
EXAMPLES = ("small", "postgres", "postgres streams", "postgres spark", "small gpu")
"""The examples as their first lines say that they are given, each beside the one that it builds upon."""
OLDEST_VERSION = "1.31"
NAMESPACE = "ml"
Object = dict[str, Any]


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the Helm that `make services` builds."""
    program = PROJECT_ROOT / ".tools" / "bin" / "helm"
    if not program.is_file():
        pytest.fail(f"Helm is not installed: {INSTALL} helm")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def value_files(example: str) -> list[str]:
    """The options that give Helm an example's files, in the order of their names."""
    return [word for name in example.split() for word in ("-f", str(HELM / "examples" / f"{name}.yaml"))]


@cache
def _render(example: str, settings: tuple[str, ...]) -> str:
    changed = [word for setting in settings for word in ("--set-json", setting)]
    done = helm("template", "forecache", str(CHART), "-n", NAMESPACE, *value_files(example), *changed)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(example: str, **changed: Any) -> list[Object]:
    """The objects of a release; a value of `changed` is named by its path, with `__` for each dot."""
    settings = tuple(f"{path.replace('__', '.')}={json.dumps(value)}" for path, value in changed.items())
    return [item for item in yaml.safe_load_all(_render(example, settings)) if item]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The object of a kind and a name without that of the release; it has to be there once."""
    full = f"forecache-{name}" if name else "forecache"
    [found] = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, full)]
    return found


def pod_templates(objects: list[Object]) -> Iterator[Object]:
    """The pods' metadata and spec: of workloads, of a timer's jobs, of Spark's executors, of Dagster's runs."""
    for item in objects:
        spec = item["spec"].get("jobTemplate", item)["spec"] if isinstance(item.get("spec"), dict) else {}
        if "template" in spec:
            yield spec["template"]
        if item["kind"] == "ConfigMap" and "executor.yaml" in item["data"]:
            yield yaml.safe_load(item["data"]["executor.yaml"])
        if item["kind"] == "ConfigMap" and "FORECACHE_DAGSTER_LAUNCHER" in item["data"]:
            yield run_job(item)["spec"]["template"]


def run_job(config_map: Object) -> Object:
    """The Job that Dagster's launcher, which a ConfigMap names, makes for a run."""
    from dagster._config import process_config, resolve_to_config_type
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
    from kubernetes.client import ApiClient

    launcher = json.loads(config_map["data"]["FORECACHE_DAGSTER_LAUNCHER"])
    kind, config = getattr(import_module(launcher["module"]), launcher["class"]), launcher["config"]
    judged = process_config(resolve_to_config_type(kind.config_type()), config)
    assert judged.success, judged.errors
    own = K8sContainerContext.create_from_config({"k8s": {"run_k8s_config": config["run_k8s_config"]}}).run_k8s_config
    assert isinstance(own, UserDefinedDagsterK8sConfig)
    names = ("job_image", "dagster_home", "image_pull_policy", "service_account_name")
    given = DagsterK8sJobConfig(**{name: config[name] for name in names})
    made = construct_dagster_k8s_job(
        given, args=["dagster"], job_name="dagster-run-1", user_defined_k8s_config=own, component="run_worker"
    )
    job: Object = ApiClient().sanitize_for_serialization(made)
    return job


def containers_of(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def variables_of(container: Object) -> dict[str, str]:
    """The variables that a container is given by value."""
    return {each["name"]: each["value"] for each in container.get("env", ()) if "value" in each}


def mounts_of(container: Object) -> dict[str, str]:
    """The paths of a container's volumes by their names."""
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
