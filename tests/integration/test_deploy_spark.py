"""Scoring on Kubernetes: the driver's pods, the executors' template, and settings that Spark knows."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml
from helm_chart import NAMESPACE, Object, containers_of, find, pod_templates, render, variables_of

from forecache.base.settings import PROJECT_ROOT, load_settings

JARS = Path(pyspark.__file__).parent / "jars"
COMPONENT = "app.kubernetes.io/component"
DRIVERS = {"small": "nightly", "postgres": "run"}
"""The component of the pods that a night runs in, by example."""


def release(base: str, **changed: Any) -> list[Object]:
    return render(base, spark__enabled=True, trainings=[{"pipeline": "churn"}], **changed)


def driver(base: str, component: str = "") -> Object:
    wanted = component or DRIVERS[base]
    [found] = [pod for pod in pod_templates(release(base)) if pod["metadata"]["labels"][COMPONENT] == wanted]
    return found


def variables(base: str, component: str = "") -> dict[str, str]:
    [container] = driver(base, component)["spec"]["containers"]
    return variables_of(container)


def executor(base: str = "postgres", **changed: Any) -> Object:
    found: Object = yaml.safe_load(find(release(base, **changed), "ConfigMap", "spark")["data"]["executor.yaml"])
    return found


@pytest.mark.parametrize("base", DRIVERS)
def test_the_driver_may_start_its_executors_and_nobody_else_reaches_them(base: str) -> None:
    objects = release(base)
    role, binding = find(objects, "Role", ""), find(objects, "RoleBinding", "")
    [account] = binding["subjects"]
    for component in (DRIVERS[base], "training"):
        spec = driver(base, component)["spec"]
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == (account["name"], True)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert {"pods", "configmaps"} <= set(role["rules"][0]["resources"])
    policy = find(objects, "NetworkPolicy", "spark")["spec"]
    assert policy["ingress"] == [{"from": [{"podSelector": policy["podSelector"]}]}]
    [who] = policy["podSelector"]["matchExpressions"]
    assert {DRIVERS[base], "training", executor(base)["metadata"]["labels"][who["key"]]} <= set(who["values"])
    [callers] = find(objects, "NetworkPolicy", "api")["spec"]["podSelector"]["matchExpressions"]
    assert {DRIVERS[base], "training"} <= set(callers["values"])
    assert not [item for item in render(base) if item["metadata"]["name"] == "forecache-spark"]


@pytest.mark.parametrize(("base", "component"), [("small", ""), ("small", "training"), ("postgres", "")])
def test_the_variables_are_settings_and_executors_run_the_driver_s_image(
    base: str, component: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = driver(base, component)
    [own] = pod["spec"]["containers"]
    for name, value in variables(base, component).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.spark_master.startswith("k8s://https://")
    conf = settings.spark_conf
    assert (conf["spark.kubernetes.container.image"], conf["spark.kubernetes.namespace"]) == (own["image"], NAMESPACE)
    # Kubernetes replaces $(NAME) by a variable that stands before.
    order = [each["name"] for each in own["env"]]
    assert max(order.index("POD_IP"), order.index("POD_NAME")) < order.index("FORECACHE_SPARK_CONF")
    assert (conf["spark.driver.host"], conf["spark.kubernetes.driver.pod.name"]) == ("$(POD_IP)", "$(POD_NAME)")
    [container] = executor(base)["spec"]["containers"]
    assert container["name"] == conf["spark.kubernetes.executor.podTemplateContainerName"]
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]
    [mounted] = [mount for mount in own["volumeMounts"] if mount["name"] == "spark"]
    [volume] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "spark"]
    assert volume["configMap"]["name"] == "forecache-spark"
    assert conf["spark.kubernetes.executor.podTemplateFile"] == f"{mounted['mountPath']}/executor.yaml"
    assert (PROJECT_ROOT / Path(container["command"][0]).relative_to("/opt/forecache")).is_file()
    workers = int(conf["spark.executor.cores"]) * settings.scoring_worker_memory_mb
    assert int(conf["spark.executor.memoryOverhead"].removesuffix("g")) * 1024 >= workers + 1024


def test_a_property_of_the_operator_wins_and_executors_go_where_the_values_say() -> None:
    conf = {"spark.executor.instances": "40", "spark.locality.wait": "0s"}
    tolerations = [{"key": "spot", "operator": "Exists"}]
    made = release("small", spark__conf=conf, spark__tolerations=tolerations, spark__nodeSelector={"pool": "spark"})
    [container] = containers_of(find(made, "CronJob", "nightly")["spec"]["jobTemplate"]["spec"]["template"])
    assert json.loads(variables_of(container)["FORECACHE_SPARK_CONF"]).items() >= conf.items()
    spec = yaml.safe_load(find(made, "ConfigMap", "spark")["data"]["executor.yaml"])["spec"]
    assert (spec["tolerations"], spec["nodeSelector"]) == (tolerations, {"pool": "spark"})


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
    shipped = find(render("postgres spark"), "ConfigMap", "dagster")["data"]["FORECACHE_DAGSTER_LAUNCHER"]
    [conf] = [each["value"] for each in json.loads(shipped)["config"]["run_k8s_config"]["container_config"]["env"]
              if each["name"] == "FORECACHE_SPARK_CONF"]  # fmt: skip
    assert set(json.loads(conf)) > set(json.loads(variables("small")["FORECACHE_SPARK_CONF"]))
    for key in json.loads(conf):
        assert key.encode() in constants, key


def test_spark_knows_every_property_of_the_docs_and_on_yarn_the_workers_fit_beside_the_heap() -> None:
    page = (PROJECT_ROOT / "docs" / "how-to" / "scoring.md").read_text()
    python = ("spark-core", "org/apache/spark/internal/config/Python")
    sql = ("spark-catalyst", "org/apache/spark/sql/internal/SQLConf")
    kubernetes = ("spark-kubernetes", "org/apache/spark/deploy/k8s/Config")
    constants = known_to_spark(CORE, python, sql, kubernetes)
    named = set(re.findall(r"spark(?:\.\w+)+(?!\S*://)", page))
    assert {"spark.archives", "spark.pyspark.python"} <= named
    assert [name for name in sorted(named) if name.encode() not in constants] == []
    yarn = page[page.index("FORECACHE_SPARK_MASTER=yarn") :]
    conf = json.loads(yarn[yarn.index("{") : yarn.index("}") + 1])
    workers = int(conf["spark.executor.cores"]) * load_settings().scoring_worker_memory_mb
    assert int(conf["spark.executor.memoryOverhead"].removesuffix("g")) * 1024 >= workers + 1024
