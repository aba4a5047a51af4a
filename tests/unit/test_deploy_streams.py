"""Streams on Kubernetes: the engine, and the patch that puts a tailer into each reader's pod."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from deploy_patches import build, load

from forecache.base.settings import Settings
from forecache.plugins.maintenance.orchestration import STREAM_CRON

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
STREAMS = FOLDER.with_name("kubernetes-streams")


def engine() -> dict[str, Any]:
    [found] = load(STREAMS / "engine.yaml")
    return found


def reader() -> dict[str, Any]:
    made = [item for item in build(STREAMS) if item["metadata"]["name"] == "forecache-reader"]
    [found] = [item for item in made if item["kind"] == "Deployment"]
    return found


def maintenance() -> dict[str, Any]:
    [found] = load(STREAMS / "maintenance.yaml")
    return found


def pods() -> list[dict[str, Any]]:
    owners = (engine(), reader(), maintenance()["spec"]["jobTemplate"])
    return [each["spec"]["template"]["spec"] for each in owners]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", ())}


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_every_object_follows_the_schema_strictly(version: str) -> None:
    for item in (engine(), reader(), maintenance()):
        kubernetes_validate.validate(item, version, strict=True)


def test_the_kustomization_lists_files_that_exist() -> None:
    [listed] = load(STREAMS / "kustomization.yaml")
    assert set(listed["resources"]) - {"../kubernetes"} == {
        path.name for path in STREAMS.glob("*.yaml") if path.name != "kustomization.yaml"
    }
    assert maintenance()["spec"]["schedule"] == STREAM_CRON


def test_an_engine_runs_once_and_has_time_to_commit() -> None:
    spec = engine()["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_the_nightly_job_sees_how_far_the_stream_has_read() -> None:
    """`StreamDay` takes a day once the state that the engine writes into the shared home says that it is whole."""
    [nightly] = load(FOLDER / "nightly.yaml")
    [night] = nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    [stream] = engine()["spec"]["template"]["spec"]["containers"]
    places = [
        next(mount["mountPath"] for mount in each["volumeMounts"] if mount["name"] == "home")
        for each in (night, stream)
    ]
    claims = [volume for volume in engine()["spec"]["template"]["spec"]["volumes"] if volume["name"] == "home"]
    assert places[0] == places[1]
    assert claims[0]["persistentVolumeClaim"]["claimName"] == "forecache-home"


def test_a_tailer_fills_the_store_that_the_reader_of_its_pod_answers_from() -> None:
    spec = reader()["spec"]["template"]["spec"]
    [tail] = [each for each in spec["initContainers"] if each["name"] == "tail"]
    [served] = spec["containers"]
    assert tail["restartPolicy"] == "Always"  # a sidecar, which ends after the reader
    assert variables(served)["FORECACHE_STREAM_TAILER"] == "off"
    mounts = [
        next(mount["mountPath"] for mount in each["volumeMounts"] if mount["name"] == "store")
        for each in (tail, served)
    ]
    assert mounts[0] == mounts[1]
    assert len(spec["initContainers"]) == 4, "the patch adds to what the reader has"


def test_every_variable_is_a_setting_and_nothing_runs_with_privileges() -> None:
    known = {f"FORECACHE_{name.upper()}" for name in Settings.model_fields}
    for spec in pods():
        assert spec["securityContext"]["runAsNonRoot"]
        for container in containers(spec):
            assert set(variables(container)) - {"HOME", "STREAM"} <= known
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
            assert container["resources"]["limits"]["memory"]
