"""Streams on Kubernetes: an engine each, a tailer beside each reader, and the hourly maintenance."""

import pytest
from helm_chart import Object, containers_of, find, mounts_of, render, variables_of

from forecache.plugins.maintenance.orchestration import STREAM_CRON

STREAMS = [{"name": "cards"}, {"name": "page_views"}]


def engine(name: str) -> Object:
    spec: Object = find(render("small", streams=STREAMS), "Deployment", f"stream-{name}")["spec"]
    return spec


def test_an_engine_runs_once_and_has_time_to_commit() -> None:
    for name, declared in (("cards", "cards"), ("page-views", "page_views")):
        spec = engine(name)
        assert spec["replicas"] == 1
        update = spec["strategy"]["rollingUpdate"]
        assert update == {"maxUnavailable": 0, "maxSurge": 1}, "the new one waits for the lease"
        assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        [container] = spec["template"]["spec"]["containers"]
        assert container["command"] == ["forecache", "stream", declared]
    selectors = [engine(name)["selector"]["matchLabels"] for name in ("cards", "page-views")]
    assert selectors[0] != selectors[1]


def test_another_node_takes_an_engine_over_before_kubernetes_would_by_itself() -> None:
    waits = {each["key"]: each["tolerationSeconds"] for each in engine("cards")["template"]["spec"]["tolerations"]}
    assert waits == {"node.kubernetes.io/not-ready": 30, "node.kubernetes.io/unreachable": 30}


def test_the_nightly_job_and_the_engine_have_one_lake_and_no_home_in_common() -> None:
    """`StreamDay` takes a day once the state of the stream says that it is whole; the lake has that state."""
    objects = render("small", streams=STREAMS)
    pods = [find(objects, "CronJob", "nightly")["spec"]["jobTemplate"]["spec"]["template"], engine("cards")["template"]]
    for pod in pods:
        for container in containers_of(pod):
            assert {"configMapRef": {"name": "forecache"}} in container["envFrom"]
        assert [volume for volume in pod["spec"]["volumes"] if volume["name"] == "home" and "emptyDir" in volume]


def test_an_engine_may_have_a_second_pod_that_stands_by() -> None:
    streams = [{"name": "cards", "pods": 2}]
    assert find(render("small", streams=streams), "Deployment", "stream-cards")["spec"]["replicas"] == 2


def test_a_tailer_fills_the_store_that_the_reader_of_its_pod_answers_from() -> None:
    spec = find(render("small", streams=STREAMS), "Deployment", "reader")["spec"]["template"]["spec"]
    [tail] = [each for each in spec["initContainers"] if each["name"] == "tail"]
    [served] = spec["containers"]
    assert tail["restartPolicy"] == "Always"  # a sidecar, which ends after the reader
    assert tail["command"] == ["forecache", "stream", "tail"]
    assert variables_of(served)["FORECACHE_STREAM_TAILER"] == "off"
    assert mounts_of(tail)["home"] == mounts_of(served)["home"]
    assert [each["name"] for each in spec["initContainers"]] == ["pull", "commit-log", "tail"]
    without = find(render("small"), "Deployment", "reader")["spec"]["template"]["spec"]
    assert "tail" not in [each["name"] for each in without["initContainers"]]


@pytest.mark.parametrize(("base", "is_timed"), [("small", True), ("postgres", False)])
def test_closed_hours_are_merged_by_a_timer_where_dagster_does_not(base: str, is_timed: bool) -> None:
    timers = [
        item for item in render(base, streams=STREAMS) if item["metadata"]["name"] == "forecache-stream-maintenance"
    ]
    assert len(timers) == is_timed
    for timer in timers:
        assert timer["spec"]["schedule"] == STREAM_CRON
        [container] = timer["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["maintain", "stream_cards", "stream_page_views"]
