"""Scoring on Kubernetes: the patch on the nightly job, the executors' template, and settings that Spark knows."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pyspark
import pytest
from deploy_patches import build, load

from forecache.base.settings import load_settings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
SPARK = FOLDER.with_name("kubernetes-spark")
JARS = Path(pyspark.__file__).parent / "jars"


def nightly() -> dict[str, Any]:
    [found] = [item for item in build(SPARK) if item["kind"] == "CronJob"]
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = nightly()["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


def variables() -> dict[str, str]:
    [container] = pod()["containers"]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_every_object_follows_the_schema_strictly(version: str) -> None:
    for item in [nightly(), *load(SPARK / "access.yaml"), *load(SPARK / "executor.yaml")]:
        kubernetes_validate.validate(item, version, strict=True)


def test_the_kustomization_lists_files_that_exist() -> None:
    [listed] = load(SPARK / "kustomization.yaml")
    files = {*listed["resources"], *(patch["path"] for patch in listed["patches"])} - {"../kubernetes"}
    assert files == {path.name for path in SPARK.glob("*.yaml")} - {"kustomization.yaml", "executor.yaml"}


def test_the_driver_may_start_its_executors_and_its_pod_stays_without_privileges() -> None:
    account, role, binding, policy = load(SPARK / "access.yaml")
    assert pod()["serviceAccountName"] == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert pod()["automountServiceAccountToken"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert {"pods", "configmaps"} <= set(role["rules"][0]["resources"])
    [executor] = load(SPARK / "executor.yaml")
    for spec in (pod(), executor["spec"]):
        assert spec["securityContext"]["runAsNonRoot"]
        security = spec["containers"][0]["securityContext"]
        assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
    [who] = policy["spec"]["podSelector"]["matchExpressions"]
    assert policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"] == [who]
    assert set(who["values"]) == {"nightly", executor["metadata"]["labels"][who["key"]]}


def test_the_variables_are_settings_and_executors_run_the_driver_s_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables().items():
        monkeypatch.setenv(name, value.replace("$(IMAGE)", variables()["IMAGE"]))
    settings = load_settings()
    assert settings.spark_master.startswith("k8s://https://")
    conf = settings.spark_conf
    assert conf["spark.kubernetes.container.image"] == pod()["containers"][0]["image"]
    [executor] = load(SPARK / "executor.yaml")
    [container] = executor["spec"]["containers"]
    assert container["name"] == conf["spark.kubernetes.executor.podTemplateContainerName"]
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]
    root = Path(__file__).parents[2]
    for inside in (conf["spark.kubernetes.executor.podTemplateFile"], container["command"][0]):
        assert (root / Path(inside).relative_to("/opt/forecache")).is_file()
    workers = int(conf["spark.executor.cores"]) * settings.scoring_worker_memory_mb
    assert int(conf["spark.executor.memoryOverhead"].removesuffix("g")) * 1024 >= workers + 1024


def known_to_spark(*classes: tuple[str, str]) -> bytes:
    """The constants of classes of Spark's, each given as the jar's name and its path there."""
    constants = b""
    for jar_name, name in classes:
        [jar] = JARS.glob(f"{jar_name}_*.jar")
        with zipfile.ZipFile(jar) as archive:
            for suffix in ("$.class", ".class"):
                constants += archive.read(f"{name}{suffix}")
    return constants


CORE = ("spark-core", "org/apache/spark/internal/config/package")


def test_spark_knows_every_property() -> None:
    constants = known_to_spark(("spark-kubernetes", "org/apache/spark/deploy/k8s/Config"), CORE)
    for key in json.loads(variables()["FORECACHE_SPARK_CONF"]):
        assert key.encode() in constants, key


def test_spark_knows_every_property_of_the_docs_and_on_yarn_the_workers_fit_beside_the_heap() -> None:
    page = (FOLDER.parents[1] / "docs" / "scoring.md").read_text()
    python = ("spark-core", "org/apache/spark/internal/config/Python")
    sql = ("spark-catalyst", "org/apache/spark/sql/internal/SQLConf")
    kubernetes = ("spark-kubernetes", "org/apache/spark/deploy/k8s/Config")
    constants = known_to_spark(CORE, python, sql, kubernetes)
    named = set(re.findall(r"spark(?:\.\w+)+(?!\S*://)", page))
    assert {"spark.archives", "spark.pyspark.python", "spark.executor.pyspark.memory"} <= named
    assert [name for name in sorted(named) if name.encode() not in constants] == []
    yarn = page[page.index("FORECACHE_SPARK_MASTER=yarn") :]
    conf = json.loads(yarn[yarn.index("{") : yarn.index("}") + 1])
    workers = int(conf["spark.executor.cores"]) * load_settings().scoring_worker_memory_mb
    assert int(conf["spark.executor.memoryOverhead"].removesuffix("g")) * 1024 >= workers + 1024
