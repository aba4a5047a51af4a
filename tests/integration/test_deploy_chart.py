"""The Helm chart: what it renders is valid for Kubernetes, and says what the framework expects, for all examples."""

import importlib.metadata
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_chart import (
    CHART,
    EXAMPLES,
    HELM,
    NAMESPACE,
    OLDEST_VERSION,
    Object,
    containers_of,
    find,
    helm,
    mounts_of,
    pod_templates,
    render,
    run_job,
    value_files,
    variables_of,
)

from forecache.base.errors import CheckError, InputError, NotFoundError, SettingsError
from forecache.base.settings import PROJECT_ROOT, Settings, load_settings
from forecache.cli.commands.reader import COMMIT_REMOTE_S
from forecache.cli.main import COMMANDS
from forecache.serve.reader.server import STOP_TIMEOUT_S

CUSTOM = {"ScaledObject", "PodMonitor"}
"""Kinds that are no part of Kubernetes."""
PLACES = {"LAKE", "LANDING", "STORE_REMOTE", "TRAINING_CHECKPOINTS", "MLFLOW_URI", "MLFLOW_ARTIFACTS"}
EVERYTHING: dict[str, Any] = {
    "spark__enabled": True,
    "streams": [{"name": "cards"}, {"name": "page_views"}],
    "trainings": [{"pipeline": "churn", "pods": 4, "gpus": 1}, {"pipeline": "spend", "schedule": "0 5 * * 0"}],
    "timers__alerts": {"schedule": "*/5 * * * *", "args": ["alerts"]},
    "timers__mail": {"schedule": "0 8 * * *", "args": ["mail", "letters"]},
}
"""Values with which all templates render something, beside the example `postgres`, or `small` without Dagster."""


def releases() -> list[tuple[str, list[Object]]]:
    made = [(example, render(example)) for example in EXAMPLES]
    return [*made, *((f"everything beside {base}", render(base, **EVERYTHING)) for base in ("small", "postgres"))]


def all_pods() -> list[tuple[str, Object]]:
    return [(name, pod) for name, objects in releases() for pod in pod_templates(objects)]


def deployment(name: str, example: str = "postgres", **changed: Any) -> Object:
    spec: Object = find(render(example, **changed), "Deployment", name)["spec"]
    return spec


def training(**values: Any) -> Object:
    made = render("small", trainings=[{"pipeline": "churn", **values}])
    spec: Object = find(made, "CronJob", "training-churn")["spec"]
    return spec


def test_the_examples_are_those_that_the_tests_render_and_each_is_linted() -> None:
    assert {name for example in EXAMPLES for name in example.split()} == {
        path.stem for path in (HELM / "examples").iterdir()
    }
    for example in EXAMPLES:
        done = helm("lint", "--strict", "--quiet", str(CHART), *value_files(example))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", [OLDEST_VERSION, kubernetes_validate.latest_version()])
def test_every_object_follows_the_schema_strictly(version: str) -> None:
    different = {json.dumps(item, sort_keys=True): item for _, objects in releases() for item in objects}.values()
    for item in different:
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, version, strict=True)
    kinds = {item["kind"] for item in different}
    assert kinds >= {"Deployment", "CronJob", "Job", "Role", "NetworkPolicy", "HorizontalPodAutoscaler", *CUSTOM}
    assert f'kubeVersion: ">={OLDEST_VERSION}.0-0"' in (CHART / "Chart.yaml").read_text()


def test_the_pods_that_spark_and_dagster_make_follow_the_schema_strictly() -> None:
    made = render("postgres", **EVERYTHING)
    executor = yaml.safe_load(find(made, "ConfigMap", "spark")["data"]["executor.yaml"])
    for item in (executor, run_job(find(made, "ConfigMap", "dagster"))):
        kubernetes_validate.validate(item, OLDEST_VERSION, strict=True)


def test_the_schema_would_notice_a_misspelt_field() -> None:
    item = json.loads(json.dumps(find(render("small"), "Deployment", "reader")))
    item["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, OLDEST_VERSION, strict=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"readers__replicas": 3}, {"reader__autoscaling__kind": "vpa"}, {"storage__root": "s3://bucket/"},
        {"settings__FORECACHE_LAKE": "s3://elsewhere"}, {"settings__FORECACHE_SMTP_PASSWORD": "orchard7"},
        {"mlflow__uri": "https://me:orchard7@mlflow.example.com"},
        {"settings__FORECACHE_STORAGE_OPTIONS": '{"AWS_SECRET_ACCESS_KEY": "orchard7"}'},
        {"settings__FORECACHE_REDIS_URL": "redis://me:orchard7@redis:6379"}, {"streams": [{"name": "Cards!"}]},
        {"timers__nightly": {"schedule": "nightly", "args": ["run"]}},
    ],
)  # fmt: skip
def test_helm_refuses_values_that_are_misspelt_or_secret_or_said_twice(wrong: dict[str, Any]) -> None:
    settings = [f"{path.replace('__', '.')}={json.dumps(value)}" for path, value in wrong.items()]
    done = helm("template", "x", str(CHART), *value_files("small"), "--set-json", *settings)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("storage.root=", "Set storage.root"), ("mlflow.uri=,existingSecret=", "Set mlflow.uri"),
        ("dagster.enabled=true,existingSecret=", "Dagster needs a Secret"),
    ],
)  # fmt: skip
def test_helm_names_what_has_no_default(missing: str, message: str) -> None:
    done = helm("template", "x", str(CHART), *value_files("small"), "--set", missing)
    assert done.returncode != 0
    assert message in done.stderr


def test_every_value_is_used_by_a_template_and_known_to_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    known = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert set(values) == set(known) - {"global"}
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    for group, parts in values.items():
        assert f".Values.{group}" in templates, group
        if known[group].get("additionalProperties") is False:
            assert set(parts) == set(known[group]["properties"]), group
            for name in parts:
                assert re.search(rf"\.{name}\b|\"{name}\"", templates), f"{group}.{name}"


def test_services_budgets_autoscalers_and_policies_select_pods_that_are_there() -> None:
    for name, objects in releases():
        pods = [pod["metadata"]["labels"] for pod in pod_templates(objects)]
        workloads = {(item["kind"], item["metadata"]["name"]) for item in objects}
        for item in objects:
            spec, where = item.get("spec", {}), f"{name}: {item['kind']} {item['metadata']['name']}"
            wanted = spec["selector"] if item["kind"] == "Service" else spec.get("selector", {}).get("matchLabels")
            if item["kind"] == "NetworkPolicy":
                wanted = spec["podSelector"]["matchLabels"]
            if wanted:
                assert any(wanted.items() <= labels.items() for labels in pods), where
            if "scaleTargetRef" in spec:
                assert (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) in workloads, where
            if item["kind"] == "Deployment":
                assert wanted.items() <= spec["template"]["metadata"]["labels"].items(), where


def test_every_variable_is_a_setting_and_every_command_exists() -> None:
    names, used = set(), set()
    for _, objects in releases():
        names |= {name for item in objects if item["kind"] == "ConfigMap" for name in item["data"]}
        for container in [each for pod in pod_templates(objects) for each in containers_of(pod)]:
            names |= {variable["name"] for variable in container.get("env", ())}
            words = " ".join([*container.get("command", ()), *container.get("args", ())]).replace(";", " ").split()
            used |= {after for word, after in zip(words, words[1:], strict=False) if word == "forecache"}
    others = {"HOME", "JOB_NAME", "POD_IP", "POD_NAME", "DAGSTER_HOME", "executor.yaml"}
    assert names - others <= {f"FORECACHE_{name.upper()}" for name in Settings.model_fields}
    assert used >= {"train", "run", "store", "serve", "log", "stream", "migrate", "dagster", "maintain", "mail"}
    assert used <= {*COMMANDS}


def test_no_pod_gets_the_variables_of_services() -> None:
    """The Service `forecache-reader` would set FORECACHE_READER_PORT=tcp://... in each pod of the namespace."""
    pods = all_pods()
    assert len(pods) > 30
    assert [name for name, pod in pods if pod["spec"].get("enableServiceLinks", True)] == []


def test_a_variable_of_a_service_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_READER_PORT", "tcp://10.96.104.199:80")
    with pytest.raises(SettingsError, match="FORECACHE_READER_PORT") as refused:
        load_settings()
    assert "enableServiceLinks: false" in refused.value.remedy
    monkeypatch.setenv("FORECACHE_READER_PORT", "eighty")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "enableServiceLinks" not in refused.value.remedy


def test_nothing_runs_as_root_or_with_privileges() -> None:
    for name, pod in all_pods():
        security = pod["spec"]["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 10001, 10001), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers_of(pod):
            own = container["securityContext"]
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert "/tmp" in mounts_of(container).values()
            # Spark sets the memory of its executors.
            assert container["name"] == "executor" or container["resources"]["limits"]["memory"]


def test_only_pods_that_make_others_have_a_token_of_kubernetes() -> None:
    made = {"small": {"nightly", "training"}, "postgres": {"run", "training", "webserver", "daemon"}}
    for base, expected in made.items():
        for enabled in (True, False):
            objects = render(base, **{**EVERYTHING, "spark__enabled": enabled})
            tokens = {
                pod["metadata"]["labels"]["app.kubernetes.io/component"]
                for pod in pod_templates(objects)
                if pod["spec"].get("automountServiceAccountToken", True)
            }
            assert tokens == (expected if enabled else expected & {"webserver", "daemon"})


def test_every_account_is_there_and_its_identity_can_be_named_once() -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/forecache"}
    objects = render("postgres", **EVERYTHING, serviceAccount__annotations=role)
    accounts = {item["metadata"]["name"]: item for item in objects if item["kind"] == "ServiceAccount"}
    assert set(accounts) == {"forecache", "forecache-reader", "forecache-dagster"}
    for item in accounts.values():
        assert (item["metadata"]["annotations"], item["automountServiceAccountToken"]) == (role, False)
    used = {pod["spec"].get("serviceAccountName") for pod in pod_templates(objects)}
    assert used == {*accounts, None}  # the migration runs before they are there
    for binding in [item for item in objects if item["kind"] == "RoleBinding"]:
        [subject] = binding["subjects"]
        assert (subject["name"] in accounts, subject["namespace"]) == (True, NAMESPACE)
        assert find(objects, "Role", binding["roleRef"]["name"].removeprefix("forecache").lstrip("-"))


def test_one_configuration_says_where_everything_lies_and_every_container_takes_it() -> None:
    for _, objects in releases():
        config = find(objects, "ConfigMap", "")["data"]
        places = {f"FORECACHE_{name}" for name in PLACES}
        assert places - set(config) <= {"FORECACHE_MLFLOW_URI"}  # which may be in the Secret
        assert len({value.split("/")[2] for value in config.values() if value.startswith("s3://")}) == 1
        for pod in pod_templates(objects):
            for container in containers_of(pod):
                if container["name"] in ("executor", "migrate"):
                    continue  # Spark's driver has it; the migration runs before the ConfigMap is there
                references = [each for source in container["envFrom"] for each in source.values()]
                assert [each["name"] for each in references][:2] == ["forecache", "forecache"]
                own = {name.removeprefix("FORECACHE_") for name in variables_of(container)}
                assert not own & PLACES, f"{container['name']} says again where something lies"


def test_a_place_of_its_own_wins_over_the_root() -> None:
    objects = render("small", storage={"root": "s3://one", "lake": "s3://other/lake"})
    config = find(objects, "ConfigMap", "")["data"]
    assert (config["FORECACHE_LAKE"], config["FORECACHE_STORE_REMOTE"]) == ("s3://other/lake", "s3://one/store")


def test_a_machine_s_disk_is_a_cache() -> None:
    """No claim of a volume, of one node or of several: what lasts is in the bucket and the databases."""
    for _, objects in releases():
        assert not [item for item in objects if item["kind"] in ("PersistentVolumeClaim", "StatefulSet")]
        for pod in pod_templates(objects):
            kinds = {kind for volume in pod["spec"]["volumes"] for kind in volume if kind != "name"}
            assert kinds <= {"emptyDir", "configMap", "secret"}


def test_secrets_are_referred_to_and_never_held() -> None:
    for _, objects in releases():
        assert not [item for item in objects if item["kind"] == "Secret"]
    objects = render("small", existingSecret="shop")
    secrets = {source["secretRef"]["name"] for pod in pod_templates(objects) for container in containers_of(pod)
               for source in container["envFrom"] if "secretRef" in source}  # fmt: skip
    assert secrets == {"shop"}
    objects = render("small", existingSecret="")
    assert "secretRef" not in yaml.safe_dump(objects)


def test_images_have_a_version_and_every_one_of_them_is_built_here() -> None:
    version = importlib.metadata.version("forecache")
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["appVersion"], chart["version"]) == (version, version)
    used = {container["image"] for _, pod in all_pods() for container in containers_of(pod)}
    assert used == {f"forecache:{version}", f"forecache-reader:{version}"}
    script = (PROJECT_ROOT / "scripts" / "images.sh").read_text()
    built = set(re.findall(r"^build (\S+) (Containerfile\S*)", script, re.MULTILINE))
    assert built == {("forecache", "Containerfile"), ("forecache-reader", "Containerfile.reader")}
    for _, name in built:
        lines = (PROJECT_ROOT / "deploy" / name).read_text().splitlines()
        [python] = [line.partition("=")[2] for line in lines if line.startswith("ARG PYTHON=")]
        assert re.fullmatch(r"docker\.io/library/python:\d+\.\d+\.\d+-slim-\w+", python)
        assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"${PYTHON}"}
        assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    project = (PROJECT_ROOT / "deploy" / "Containerfile.project").read_text().splitlines()
    assert [line for line in project if line.startswith("USER")][-1] == "USER 10001"
    assert f"ARG FORECACHE=forecache:{version}" in project


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ({"registry": "registry.example.com/ml", "tag": "abc123"}, "registry.example.com/ml/forecache"),
        ({"batch": "corp/fraud@sha256:0f", "reader": "corp/reader", "tag": "7"}, "corp/"),
    ],
)
def test_images_are_named_in_one_place_for_executors_and_runs_too(images: dict[str, str], expected: str) -> None:
    objects = render("postgres", **EVERYTHING, **{f"images__{name}": value for name, value in images.items()})
    batch = f"{images['batch']}" if "batch" in images else f"{expected}:abc123"
    seen = set()
    for container in [each for pod in pod_templates(objects) for each in containers_of(pod)]:
        assert container["image"].startswith(expected)
        conf = variables_of(container).get("FORECACHE_SPARK_CONF")
        if conf:
            seen.add(container["name"])
            assert json.loads(conf)["spark.kubernetes.container.image"] == container["image"] == batch
    assert seen == {"training", "dagster"}


def test_readers_ask_for_tokens_that_a_secret_holds() -> None:
    spec = deployment("reader")["template"]["spec"]
    [reader] = spec["containers"]
    [secret] = [volume for volume in spec["volumes"] if "secret" in volume]
    [mount] = [mount for mount in reader["volumeMounts"] if mount["name"] == secret["name"]]
    assert mount["readOnly"]
    assert not secret["secret"].get("optional")
    assert Path(variables_of(reader)["FORECACHE_READER_TOKENS"]).parent == Path(mount["mountPath"])
    assert "FORECACHE_READER_ANONYMOUS" not in variables_of(reader)
    [open_reader] = deployment("reader", reader__tokensSecret="")["template"]["spec"]["containers"]
    assert variables_of(open_reader)["FORECACHE_READER_ANONYMOUS"] == "true"
    assert "tokens" not in mounts_of(open_reader)


def test_a_rolling_update_takes_no_reader_away_before_another_is_ready_and_told() -> None:
    spec = deployment("reader")
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = spec["template"]["spec"]
    [reader] = pod["containers"]
    assert reader["readinessProbe"]["httpGet"]["path"] == "/readyz"
    drain = ("FORECACHE_READER_DRAIN_S", "FORECACHE_READER_MAX_DRAIN_S")
    settings = find(render("postgres"), "ConfigMap", "")["data"]
    quiet_s, most_s = (float(settings[name]) for name in drain)
    probe = reader["readinessProbe"]
    assert most_s > quiet_s > probe["periodSeconds"] * probe["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > most_s + STOP_TIMEOUT_S + COMMIT_REMOTE_S
    assert not set(drain) & set(variables_of(reader)), "they would win over the settings that a user gives"
    for given in ({"settings__FORECACHE_READER_MAX_DRAIN_S": 300}, {"settings__FORECACHE_READER_DRAIN_S": "300"}):
        longer = deployment("reader", **given)["template"]["spec"]
        assert longer["terminationGracePeriodSeconds"] > 300 + STOP_TIMEOUT_S + COMMIT_REMOTE_S
    before = deployment("reader", settings__FORECACHE_READER_LOG="x")["template"]["metadata"]["annotations"]
    assert before["checksum/config"] != spec["template"]["metadata"]["annotations"]["checksum/config"]


def test_a_sidecar_pulls_and_the_reader_that_does_not_wait_for_it_is_ready_once_it_serves_everything() -> None:
    spec = deployment("reader")["template"]["spec"]
    assert all(each["restartPolicy"] == "Always" for each in spec["initContainers"])
    [pull] = [each for each in spec["initContainers"] if each["name"] == "pull"]
    assert pull["command"] == ["forecache", "store", "pull", "--every", "30"]
    [reader] = spec["containers"]
    assert variables_of(reader)["FORECACHE_READER_WAITS_FOR_ALL"] == "true"
    assert mounts_of(pull)["home"] == mounts_of(reader)["home"]


def test_the_log_of_a_reader_waits_in_a_volume_that_its_sidecar_empties() -> None:
    spec = deployment("reader")["template"]["spec"]
    [reader] = spec["containers"]
    [committer] = [each for each in spec["initContainers"] if "log" in each["command"]]
    assert committer["restartPolicy"] == "Always"  # a sidecar, which ends after the reader
    places = []
    for container in (reader, committer):
        variables = variables_of(container)
        assert variables["FORECACHE_REQUEST_LOG_SPOOL"] == mounts_of(container)["spool"]
        places.append((mounts_of(container)["spool"], variables["FORECACHE_REQUEST_LOG_DELAY_S"]))
    assert places[0] == places[1]
    assert variables_of(reader)["FORECACHE_REQUEST_LOG_COMMITTER"] == "off"
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "spool"]
    assert volume["emptyDir"]["sizeLimit"] == "2Gi"
    assert Settings.model_fields["request_log_spool_bytes"].default < 2 << 30
    without = containers_of(deployment("reader", reader__requestLog=False)["template"])
    assert [each["name"] for each in without] == ["pull", "reader"]


def test_a_job_outlives_a_preemption_and_not_an_error_of_the_user() -> None:
    users = {error.exit_code for error in (SettingsError, NotFoundError, InputError, CheckError)}
    jobs = [item for _, made in releases() for item in made if item["kind"] == "CronJob"]
    assert {item["metadata"]["labels"]["app.kubernetes.io/component"] for item in jobs} == {
        "nightly", "timer", "training",
    }  # fmt: skip
    for item in jobs:
        job = item["spec"]["jobTemplate"]["spec"]
        ignore, fail = job["podFailurePolicy"]["rules"]
        assert (ignore["action"], ignore["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
        assert set(fail["onExitCodes"]["values"]) == users
        [container] = job["template"]["spec"]["containers"]
        assert (fail["onExitCodes"]["containerName"], job["template"]["spec"]["restartPolicy"]) == (
            container["name"], "Never",
        )  # fmt: skip


def test_the_pods_of_a_training_have_time_to_save_and_find_each_other() -> None:
    job = training(pods=4)["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 30  # what torchrun gives its workers
    assert pod["restartPolicy"] == "Never"
    assert pod["tolerations"]
    variables = variables_of(pod["containers"][0])
    assert variables["FORECACHE_TRAINING_NODES"] == f"1:{job['parallelism']}"
    # A job's name is given when it is started; its pods' host names begin with it.
    assert variables["FORECACHE_TRAINING_RENDEZVOUS"] == f"$(JOB_NAME)-0.{pod['subdomain']}:29400"
    named = [each for each in pod["containers"][0]["env"] if each["name"] == "JOB_NAME"]
    assert named[0]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"


def test_a_training_runs_by_hand_or_on_its_schedule_with_its_gpus() -> None:
    by_hand, weekly = training(), training(schedule="0 5 * * 0", gpus=2, pods=2)
    assert (by_hand["suspend"], weekly["suspend"], weekly["schedule"]) == (True, False, "0 5 * * 0")
    [one] = by_hand["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert one["command"] == ["forecache", "train", "churn"]
    assert "FORECACHE_TRAINING_NODES" not in variables_of(one)
    [many] = weekly["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert many["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": 2}
    assert mounts_of(many)["shm"] == "/dev/shm"


def test_the_migration_runs_before_anything_that_the_chart_makes() -> None:
    job = find(render("postgres"), "Job", "migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]
    [container] = pod["spec"]["containers"]
    assert "serviceAccountName" not in pod["spec"]
    assert container["envFrom"] == [{"secretRef": {"name": "forecache"}}]
    assert variables_of(container).items() >= find(render("postgres"), "ConfigMap", "")["data"].items()


def test_nothing_is_reached_but_by_policy() -> None:
    objects = render("postgres", **EVERYTHING)
    closed = find(objects, "NetworkPolicy", "closed")["spec"]
    assert (closed["policyTypes"], "ingress" in closed) == (["Ingress", "Egress"], False)
    everybody = closed["podSelector"]["matchLabels"]
    assert all(everybody.items() <= pod["metadata"]["labels"].items() for pod in pod_templates(objects))
    dns, inside, outside = closed["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert inside["to"] == [{"podSelector": {"matchLabels": everybody}}]
    assert [port["port"] for port in outside["ports"]] == [443, 5432]
    component = "app.kubernetes.io/component"
    for name, namespaces in (("reader", "forecache-client"), ("webserver", "forecache-operator")):
        policy = find(objects, "NetworkPolicy", name)["spec"]
        assert policy["podSelector"]["matchLabels"][component] == name
        [rule] = policy["ingress"]
        assert rule["from"] == [{"namespaceSelector": {"matchLabels": {namespaces: "true"}}}]
        assert rule["ports"] == [{"port": "http"}]
    [code] = find(objects, "NetworkPolicy", "code")["spec"]["ingress"]
    assert code["from"][0]["podSelector"]["matchExpressions"][0]["values"] == ["webserver", "daemon"]
    training = find(objects, "NetworkPolicy", "training")["spec"]
    assert training["ingress"] == [{"from": [{"podSelector": training["podSelector"]}]}]
    assert not [item for item in render("small", networkPolicy__enabled=False) if item["kind"] == "NetworkPolicy"]


def test_the_pod_monitor_reads_metrics_with_a_token_of_a_secret() -> None:
    objects = render("postgres")
    spec = find(objects, "PodMonitor", "reader")["spec"]
    [endpoint] = spec["podMetricsEndpoints"]
    assert set(endpoint) == {"port", "path", "authorization"}
    assert endpoint["authorization"]["credentials"] == {"name": "forecache-metrics-token", "key": "token"}
    pod = deployment("reader")["template"]
    assert spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert "prometheus.io/scrape" not in pod["metadata"]["annotations"]
    assert "prometheus.io/scrape" in deployment("reader", "small")["template"]["metadata"]["annotations"]


def test_names_begin_with_the_release() -> None:
    done = helm("template", "prod", str(CHART), *value_files("postgres"), "-n", NAMESPACE)
    names = {item["metadata"]["name"] for item in yaml.safe_load_all(done.stdout) if item}
    assert {name for name in names if not re.fullmatch(r"prod-forecache(-[a-z-]+)?", name)} == set()


@pytest.mark.parametrize(
    "name", [".gitignore", ".dockerignore", ".containerignore", "deploy/Containerfile.project.dockerignore"]
)
def test_secrets_are_neither_committed_nor_in_an_image(name: str) -> None:
    ignored = (PROJECT_ROOT / name).read_text().splitlines()
    assert ".env" in ignored
    assert {".forecache", ".forecache/", ".forecache*"} & set(ignored)


def test_git_ignores_a_file_of_secrets() -> None:
    for path in (".env", "deploy/.env", ".env.production"):
        said = subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=PROJECT_ROOT, check=False)
        assert said.returncode == 0, path
