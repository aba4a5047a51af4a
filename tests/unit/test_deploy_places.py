"""One configuration for all manifests: where data lies, where images are; and nothing that a cluster may lack."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_patches import build, containers_of, load, pod_templates

from forecache.base.errors import SettingsError
from forecache.base.settings import load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
APPLIED = ("kubernetes", "kubernetes-spark", "kubernetes-streams", "kubernetes-training")
PLACES = {"LAKE", "LANDING", "STORE_REMOTE", "TRAINING_CHECKPOINTS", "MLFLOW_URI", "MLFLOW_ARTIFACTS"}


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Every object of every file, as it is written and as it is applied."""
    written = [
        (path.name, item)
        for path in sorted(DEPLOY.glob("kubernetes*/**/*.yaml"))
        if path.name != "kustomization.yaml"
        for item in load(path)
    ]
    return written + [(folder, item) for folder in APPLIED for item in build(DEPLOY / folder)]


def test_every_folder_that_is_applied_is_looked_at() -> None:
    found = {path.parent.name for path in DEPLOY.glob("**/kustomization.yaml") if load(path)[0]["kind"] != "Component"}
    assert found == set(APPLIED)


def test_no_pod_gets_the_variables_of_services() -> None:
    """The Service `forecache-reader` would set FORECACHE_READER_PORT=tcp://... in each pod of the namespace."""
    pods = [(where, item, pod) for where, item in manifests() for pod in pod_templates(item)]
    assert len(pods) > 12
    linked = {
        (where, item["metadata"].get("name"))
        for where, item, pod in pods
        if pod["spec"].get("enableServiceLinks", True) and "image" in pod["spec"]["containers"][0]
    }
    assert linked == set()


def test_a_variable_of_a_service_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_READER_PORT", "tcp://10.96.104.199:80")
    with pytest.raises(SettingsError, match="FORECACHE_READER_PORT") as refused:
        load_settings()
    assert "enableServiceLinks: false" in refused.value.remedy
    monkeypatch.setenv("FORECACHE_READER_PORT", "eighty")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "enableServiceLinks" not in refused.value.remedy


def test_one_configuration_says_where_everything_lies_and_every_container_takes_it() -> None:
    [config] = [item for item in build(DEPLOY / "kubernetes") if item["kind"] == "ConfigMap"]
    assert {f"FORECACHE_{name}" for name in PLACES} <= set(config["data"])
    buckets = {value.split("/")[2] for value in config["data"].values() if value.startswith("s3://")}
    assert len(buckets) == 1
    for folder in APPLIED:
        for container in [each for item in build(DEPLOY / folder) for each in containers_of(item)]:
            names = [reference.get("configMapRef", {}).get("name") for reference in container["envFrom"]]
            assert names == [config["metadata"]["name"], None], container["name"]
            own = {variable["name"].removeprefix("FORECACHE_") for variable in container.get("env", ())}
            assert not own & PLACES, f"{folder}: {container['name']} says again where something lies"


@pytest.mark.parametrize("folder", APPLIED)
def test_images_are_renamed_in_one_place_for_executors_too(folder: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    named = tmp_path / "deploy" / "kubernetes-images" / "kustomization.yaml"
    [component] = load(named)
    for image in component["images"]:
        image |= {"newName": f"registry.example.com/ml/{image['name']}", "newTag": "abc123"}
    named.write_text(yaml.safe_dump(component))
    for container in [each for item in build(tmp_path / "deploy" / folder) for each in containers_of(item)]:
        assert container["image"].startswith("registry.example.com/ml/forecache")
        variables = {variable["name"]: variable.get("value", "") for variable in container.get("env", ())}
        if "FORECACHE_SPARK_CONF" in variables:
            assert list(variables).index("IMAGE") < list(variables).index(
                "FORECACHE_SPARK_CONF"
            )  # $(IMAGE) is replaced
            conf = json.loads(variables["FORECACHE_SPARK_CONF"].replace("$(IMAGE)", variables["IMAGE"]))
            assert conf["spark.kubernetes.container.image"] == container["image"]


def test_only_a_training_of_several_pods_needs_a_volume_of_several_nodes() -> None:
    modes = {
        (folder, item["metadata"]["name"]): item["spec"]["accessModes"]
        for folder in APPLIED
        for item in build(DEPLOY / folder)
        if item["kind"] == "PersistentVolumeClaim"
    }
    assert {key for key, value in modes.items() if value == ["ReadWriteMany"]} == {
        ("kubernetes-training", "forecache-training")
    }


@pytest.mark.parametrize("folder", APPLIED)
def test_pods_that_share_a_disk_of_one_node_run_on_one_node_and_every_claim_is_there(folder: str) -> None:
    made = build(DEPLOY / folder)
    claims = {item["metadata"]["name"]: item["spec"] for item in made if item["kind"] == "PersistentVolumeClaim"}
    for pod in [pod for item in made for pod in pod_templates(item)]:
        for volume in [
            each["persistentVolumeClaim"] for each in pod["spec"]["volumes"] if "persistentVolumeClaim" in each
        ]:
            if claims[volume["claimName"]]["accessModes"] == ["ReadWriteOnce"]:
                affinity = pod["spec"]["affinity"]["podAffinity"]
                [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
                assert term["topologyKey"] == "kubernetes.io/hostname"
                # It selects its own pods: otherwise the first one would wait for another.
                assert term["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
