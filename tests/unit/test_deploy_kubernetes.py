"""What an operator applies is valid for Kubernetes, and says what the engine expects."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from forecache.cli.main import COMMANDS
from forecache.errors import CheckError, InputError, NotFoundError, SettingsError
from forecache.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
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
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert set(listed) == {path.name for path in FILES} - {"training.yaml"}


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
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            names |= {variable["name"] for variable in container.get("env", ())} - {"PIPELINE"}
            commands.append(" ".join([*container["command"], *container.get("args", ())]))
    known = {f"FORECACHE_{name.upper()}" for name in Settings.model_fields}
    assert names <= known
    words = " ".join(commands).split()
    used = {after for word, after in zip(words, words[1:], strict=False) if word == "forecache"}
    assert {"train", "run", "push", "pull", "serve"} == used
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
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["resources"]["limits"]["memory"]
