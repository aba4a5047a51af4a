"""Replicas by demand: both forms of the chart say what the simulator simulates, on a metric that the reader exports."""

import re
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_chart import NAMESPACE, find, render
from monitoring_services import program

from forecache.kit.metrics.metric import METRICS
from forecache.plugins.cost.autoscalers import Hpa, ScalingLimit

IN_FLIGHT = METRICS["forecache_reader_in_flight_seconds_total"].name
ROOT = Path(__file__).parents[2]
KEDA_SPEC = {
    "scaleTargetRef", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod", "idleReplicaCount",
    "minReplicaCount", "maxReplicaCount", "fallback", "advanced", "triggers",
}  # fmt: skip
"""The fields of a ScaledObject's spec: keda.sh/docs/latest/reference/scaledobject-spec."""


def hpa(**changed: Any) -> dict[str, Any]:
    return deepcopy(find(render("postgres", **changed), "HorizontalPodAutoscaler", "reader"))


def keda(**changed: Any) -> dict[str, Any]:
    return find(render("postgres", reader__autoscaling__kind="keda", **changed), "ScaledObject", "reader")


def limits(rules: dict[str, Any]) -> tuple[ScalingLimit, ...]:
    words = {"Percent": "percent", "Pods": "pods"}
    return tuple(
        ScalingLimit(each["periodSeconds"], **{words[each["type"]]: each["value"]}) for each in rules["policies"]
    )


def test_the_default_policy_of_the_simulator_is_the_one_that_is_deployed() -> None:
    spec, policy = hpa()["spec"], Hpa()
    [pods] = [each["pods"] for each in spec["metrics"] if each["type"] == "Pods"]
    assert pods["target"]["averageValue"] == f"{policy.target * 1000:.0f}m"
    assert (spec["minReplicas"], spec["maxReplicas"]) == (policy.least, policy.most)
    up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
    assert (up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]) == (
        policy.up_window_s, policy.down_window_s,
    )  # fmt: skip
    assert (limits(up), limits(down)) == (policy.up, policy.down)


def test_the_target_is_that_of_a_worker_for_each_worker() -> None:
    [pods] = [each["pods"] for each in hpa(reader__workers=3)["spec"]["metrics"] if each["type"] == "Pods"]
    assert pods["target"]["averageValue"] == "1800m"
    assert keda(reader__workers=3)["spec"]["triggers"][0]["metadata"]["threshold"] == "1.8"


def test_there_is_one_autoscaler_or_none_and_then_a_number_of_replicas() -> None:
    kinds = {"HorizontalPodAutoscaler", "ScaledObject"}
    expected = {"none": set(), "hpa": {"HorizontalPodAutoscaler"}, "keda": {"ScaledObject"}}
    for kind, made in expected.items():
        objects = render("postgres", reader__autoscaling__kind=kind, reader__replicas=5)
        assert {item["kind"] for item in objects} & kinds == made
        # A number beside an autoscaler would be set again at each upgrade.
        assert find(objects, "Deployment", "reader")["spec"].get("replicas") == (5 if kind == "none" else None)


def test_no_autoscaler_looks_at_latency() -> None:
    assert not re.search("p99|quantile|duration", yaml.safe_dump_all([hpa(), keda()]))


def test_keda_scales_the_same_deployment_by_the_same_policy() -> None:
    made, spec = keda(), keda()["spec"]
    assert (made["apiVersion"], made["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert set(spec) <= KEDA_SPEC
    assert spec["scaleTargetRef"] == hpa()["spec"]["scaleTargetRef"]
    assert spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa()["spec"]["behavior"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (Hpa().least, Hpa().most)
    assert set(spec["fallback"]) == {"failureThreshold", "replicas", "behavior"}
    [trigger] = spec["triggers"]
    assert set(trigger) == {"type", "metricType", "metadata"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert float(trigger["metadata"]["threshold"]) == Hpa().target


def test_the_autoscaler_that_keda_makes_follows_kubernetes_schema() -> None:
    spec = keda()["spec"]
    made = hpa()
    made["spec"]["behavior"] = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    target = {"type": spec["triggers"][0]["metricType"], "averageValue": spec["triggers"][0]["metadata"]["threshold"]}
    made["spec"]["metrics"] = [
        {"type": "External", "external": {"metric": {"name": "s0-prometheus"}, "target": target}}
    ]
    kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)
    made["spec"]["behavior"]["scaleDown"]["stabilisationWindowSeconds"] = 300
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)


def test_the_adapter_makes_the_metric_of_the_autoscaler_from_one_that_the_reader_exports(tmp_path: Path) -> None:
    [rule] = yaml.safe_load((ROOT / "deploy" / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    [pods] = [each["pods"] for each in hpa()["spec"]["metrics"] if each["type"] == "Pods"]
    assert rule["name"] == {"matches": IN_FLIGHT, "as": pods["metric"]["name"]}
    assert rule["seriesQuery"].startswith(IN_FLIGHT + "{")
    filled = (
        rule["metricsQuery"]
        .replace("<<.Series>>", IN_FLIGHT)
        .replace("<<.LabelMatchers>>", 'namespace="ml",pod=~"forecache-reader-.*"')
        .replace("<<.GroupBy>>", "pod")
    )
    query = keda()["spec"]["triggers"][0]["metadata"]["query"]
    assert f'{IN_FLIGHT}{{namespace="{NAMESPACE}"}}' in query
    rules = tmp_path / "rules.yml"
    records = [{"record": f"test:{number}", "expr": text} for number, text in enumerate((filled, query))]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": records}]}))
    said = subprocess.run([program("promtool"), "check", "rules", rules], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
