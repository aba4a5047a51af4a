"""What an operator applies is valid for Kubernetes, and says what the framework expects."""

import importlib.metadata
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from forecache.base.errors import CheckError, InputError, NotFoundError, SettingsError
from forecache.base.settings import Settings
from forecache.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
CUSTOM = {"kustomization.yaml", "keda.yaml"}  # of kinds that are no part of Kubernetes
TRAINING = ROOT / "deploy" / "kubernetes-training" / "training.yaml"
FILES = [*sorted(path for path in FOLDER.glob("*.yaml") if path.name not in CUSTOM), TRAINING]
OLDEST_VERSION = "1.31"  # podFailurePolicy and sidecar containers are in every cluster from there on


def objects() -> list[dict[str, Any]]:
    return [document for path in FILES for document in yaml.safe_load_all(path.read_text())]


def the(kind: str, name: str) -> dict[str, Any]:
    [found] = [item for item in objects() if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def pod_specs() -> list[dict[str, Any]]:
    cron = the("CronJob", "forecache-nightly")["spec"]["jobTemplate"]
    owners = [the("Job", "forecache-training"), cron, the("Deployment", "forecache-reader")]
    return [owner["spec"]["template"]["spec"] for owner in owners]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


@pytest.mark.parametrize("version", [OLDEST_VERSION, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("item", objects(), ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_every_object_follows_the_schema_strictly(item: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(item, version, strict=True)


def test_the_schema_would_notice_a_misspelt_field() -> None:
    item = the("Deployment", "forecache-reader")
    item["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, OLDEST_VERSION, strict=True)


def test_kustomization_lists_files_that_exist() -> None:
    for folder in (FOLDER, TRAINING.parent):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        assert set(listed) == {path.name for path in FILES if path.parent == folder}


def test_services_and_budgets_select_their_pods() -> None:
    training, reader = the("Job", "forecache-training"), the("Deployment", "forecache-reader")
    for kind, name, owner in (("Service", "forecache-training", training), ("Service", "forecache-reader", reader)):
        selector = the(kind, name)["spec"]["selector"]
        assert selector.items() <= owner["spec"]["template"]["metadata"]["labels"].items()
    budget = the("PodDisruptionBudget", "forecache-reader")["spec"]["selector"]["matchLabels"]
    assert budget == reader["spec"]["selector"]["matchLabels"]
    assert the("HorizontalPodAutoscaler", "forecache-reader")["spec"]["scaleTargetRef"]["name"] == "forecache-reader"


def test_every_variable_is_a_setting_and_every_command_exists() -> None:
    names = set(the("ConfigMap", "forecache")["data"])
    commands = []
    for spec in pod_specs():
        for container in containers(spec):
            names |= {variable["name"] for variable in container.get("env", ())} - {"PIPELINE", "HOME"}
            commands.append(" ".join([*container["command"], *container.get("args", ())]))
    known = {f"FORECACHE_{name.upper()}" for name in Settings.model_fields}
    assert names <= known
    words = " ".join(commands).split()
    used = {after for word, after in zip(words, words[1:], strict=False) if word == "forecache"}
    assert {"train", "run", "push", "pull", "serve", "log"} == used
    assert used <= set(COMMANDS)


def test_training_outlives_a_preemption_and_not_an_error_of_the_user() -> None:
    job = the("Job", "forecache-training")["spec"]
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 30  # what torchrun gives its workers
    assert pod["restartPolicy"] == "Never"
    assert pod["tolerations"]
    ignore, fail = job["podFailurePolicy"]["rules"]
    assert (ignore["action"], ignore["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    users = {error.exit_code for error in (SettingsError, NotFoundError, InputError, CheckError)}
    assert set(fail["onExitCodes"]["values"]) == users
    variables = {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}
    assert variables["FORECACHE_TRAINING_NODES"] == f"1:{job['parallelism']}"
    host = f"forecache-training-0.{pod['subdomain']}:29400"
    assert variables["FORECACHE_TRAINING_RENDEZVOUS"] == host


def test_nothing_runs_as_root_or_with_privileges() -> None:
    for spec in pod_specs():
        assert spec["securityContext"]["runAsNonRoot"]
        for container in containers(spec):
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}
            assert container["resources"]["limits"]["memory"]


def test_images_have_a_version_and_every_one_of_them_is_built_here() -> None:
    version = importlib.metadata.version("forecache")
    used = {container["image"] for spec in pod_specs() for container in containers(spec)}
    assert used == {f"forecache:{version}", f"forecache-reader:{version}"}
    listed = yaml.safe_load((ROOT / "deploy" / "kubernetes-images" / "kustomization.yaml").read_text())["images"]
    assert {f"{image['name']}:{image['newTag']}" for image in listed} == used
    for name in ("Containerfile", "Containerfile.reader"):
        lines = (ROOT / "deploy" / name).read_text().splitlines()
        [python] = [line.partition("=")[2] for line in lines if line.startswith("ARG PYTHON=")]
        assert re.fullmatch(r"docker\.io/library/python:\d+\.\d+\.\d+-slim-\w+", python)
        assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"${PYTHON}"}


def test_readers_ask_for_tokens_that_a_secret_holds() -> None:
    [reader] = the("Deployment", "forecache-reader")["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in reader["env"]}
    volumes = the("Deployment", "forecache-reader")["spec"]["template"]["spec"]["volumes"]
    [secret] = [volume for volume in volumes if "secret" in volume]
    [mount] = [mount for mount in reader["volumeMounts"] if mount["name"] == secret["name"]]
    assert mount["readOnly"]
    assert not secret["secret"].get("optional")
    assert Path(variables["FORECACHE_READER_TOKENS"]).parent == Path(mount["mountPath"])
    assert "FORECACHE_READER_ANONYMOUS" not in the("ConfigMap", "forecache")["data"]


def test_the_log_of_a_reader_waits_in_a_volume_that_its_sidecar_empties() -> None:
    spec = the("Deployment", "forecache-reader")["spec"]["template"]["spec"]
    [reader] = spec["containers"]
    [committer] = [each for each in spec["initContainers"] if "log" in each["command"]]
    assert committer["restartPolicy"] == "Always"  # a sidecar, which ends after the reader
    places = []
    for container in (reader, committer):
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "spool"]
        assert variables["FORECACHE_REQUEST_LOG_SPOOL"] == mount["mountPath"]
        places.append((mount["mountPath"], variables["FORECACHE_REQUEST_LOG_DELAY_S"]))
    assert places[0] == places[1]
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "spool"]
    assert volume["emptyDir"]["sizeLimit"] == "2Gi"
    assert Settings.model_fields["request_log_spool_bytes"].default < 2 << 30


def test_nothing_is_reached_but_by_policy() -> None:
    closed = the("NetworkPolicy", "forecache-closed")["spec"]
    assert (closed["podSelector"], closed["policyTypes"], "ingress" in closed) == ({}, ["Ingress"], False)
    for name, owner in (
        ("reader", the("Deployment", "forecache-reader")),
        ("training", the("Job", "forecache-training")),
    ):
        selected = the("NetworkPolicy", f"forecache-{name}")["spec"]["podSelector"]["matchLabels"]
        assert selected.items() <= owner["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", [".gitignore", ".dockerignore", ".containerignore"])
def test_secrets_are_neither_committed_nor_in_an_image(name: str) -> None:
    ignored = (ROOT / name).read_text().splitlines()
    assert ".env" in ignored
    assert {".forecache", ".forecache/"} & set(ignored)


def test_git_ignores_a_file_of_secrets() -> None:
    for path in (".env", "deploy/.env", ".env.production"):
        said = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT, check=False)
        assert said.returncode == 0, path
