"""Install the chart on a cluster of one node that has nothing yet, use it as a company does, and write what happened.

Object store, database and broker are processes on the node, outside Kubernetes, as managed services are. `make
kubernetes` calls it.

Usage: .venv/bin/python scripts/kubernetes/prove.py [TRANSCRIPT [STEP...]]     (STEP: the name of one of STEPS; all)
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runs import compare_with_alone, do_nights_alone, kill_run_pod, land_files, run_by_cron_job, run_main_job
from streams import STREAMED, follow_stream
from trial import ADDRESS, CACHE, READER, ROOT, SCRIPTS, SPACE, Trial, TrialError, get_settings

UPGRADED = (*STREAMED, "--set", "settings.FORECACHE_READER_SCRUB_S=3600")


def start_services(trial: Trial) -> None:
    """Start MinIO, PostgreSQL and Kafka on the node, with a bucket and two databases."""
    data = trial.folder / "minio/forecache"
    data.mkdir(parents=True)
    minio = {"MINIO_ROOT_USER": "forecache", "MINIO_ROOT_PASSWORD": trial.secret}
    command = [str(ROOT / ".tools/bin/minio"), "server", "--address", f"{ADDRESS}:9000", str(data.parent)]
    trial.start_on_node("minio", *command, env=minio)
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    database = trial.folder / "postgres"
    database.mkdir()
    (database / "password").write_text(trial.secret)
    for path in (trial.folder, database, database / "password"):
        shutil.chown(path, "postgres", "postgres")
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    options = [
        "--username",
        "forecache",
        "--auth",
        "scram-sha-256",
        "--pwfile",
        str(database / "password"),
        "--no-sync",
    ]
    trial.node(
        *as_postgres, str(binaries / "initdb"), "--pgdata", str(database / "data"), "--encoding", "UTF8", *options
    )
    with (database / "data/pg_hba.conf").open("a") as opened:
        opened.write("host all all all scram-sha-256\n")
    served = [
        "-D",
        str(database / "data"),
        "-c",
        f"listen_addresses={ADDRESS}",
        "-c",
        f"unix_socket_directories={database}",
    ]
    trial.start_on_node("postgres", *as_postgres, str(binaries / "postgres"), *served, "-c", "fsync=off")
    broker = ["bash", str(ROOT / "scripts/kafka.sh"), "run", str(trial.folder / "kafka"), "9092"]
    trial.start_on_node("kafka", *broker, env={"KAFKA_ADDRESS": ADDRESS})
    psql = ["psql", f"postgresql://forecache:{trial.secret}@{ADDRESS}/postgres"]

    def is_up() -> bool:
        with contextlib.suppress(TrialError):
            trial.node("curl", "--silent", "--fail", f"http://{ADDRESS}:9000/minio/health/ready")
            trial.node(*psql, "--command", "SELECT 1")
            trial.node("bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/9092")
            return True
        return False

    trial.wait_until(120, "MinIO, PostgreSQL and Kafka", is_up)
    for name in ("dagster", "mlflow"):
        trial.node(*psql, "--command", f"CREATE DATABASE {name}")
    trial.write("an object store (MinIO), a database (PostgreSQL) and a broker (Kafka) answer beside the cluster")


def build(trial: Trial) -> None:
    """Build the cluster's binary and the images, which later runs find in the cache, and start the cluster."""
    for what, command in (
        ("Kubernetes built", "cluster.sh build"),
        ("images built", "images.sh"),
        ("node ready", "cluster.sh start"),
    ):
        began = time.monotonic()
        subprocess.run(["bash", *f"{SCRIPTS}/{command}".split()], cwd=ROOT, check=True)
        trial.write(f"{what} after {time.monotonic() - began:.0f} s")
    for image in ("forecache-reader:0.1.0", "fraud:0.1.0"):
        node = f"bash {SCRIPTS}/cluster.sh run ctr --namespace k8s.io images import -"
        trial.run(
            "bash", "-o", "pipefail", "-c", f"podman save --quiet --format docker-archive localhost/{image} | {node}"
        )
        size = int(trial.run("podman", "image", "inspect", "--format", "{{.Size}}", f"localhost/{image}"))
        trial.write(f"image {image} on the node: {size / 1e6:.0f} MB")


def make_secrets(trial: Trial) -> None:
    trial.kubectl("create", "namespace", SPACE)
    file = trial.folder / "tokens.json"
    for name, scope in (("shop", "*"), ("prometheus", "+metrics")):
        create = [sys.executable, "-m", "forecache.cli.main", "tokens", "create", name, "--scope", scope, "--json"]
        said = json.loads(trial.run(*create, "--file", str(file), env={"FORECACHE_HOME": str(trial.folder / "home")}))
        trial.tokens[name] = said["token"]
    (CACHE / "node/metrics-token").write_text(trial.tokens["prometheus"])
    trial.kubectl("create", "secret", "generic", "forecache-reader-tokens", "--from-file", str(file))
    literals = [f"--from-literal={name}={value}" for name, value in get_settings(trial).items()]
    trial.kubectl("create", "secret", "generic", "forecache", *literals)
    trial.write("Secrets made: the readers' tokens, the keys of bucket and databases")


def install(trial: Trial) -> None:
    began = time.monotonic()
    trial.install()
    seconds, ready = time.monotonic() - began, trial.count_ready(READER)
    trial.write(
        f"helm upgrade, readers and a CronJob in the place of Dagster: {ready} readers ready after {seconds:.0f} s"
    )
    with trial.load(4) as asked:
        time.sleep(5)
    check_load(trial, "readers through their Service", asked)
    find = f"import socket; print(socket.gethostbyname('{READER}'))"
    address = trial.kubectl("exec", trial.list_readers()[0], "--container", "reader", "--", "python", "-c", find)
    if address != trial.get_service_address(READER):
        raise TrialError(f"The name {READER} is {address} in a pod.")
    trial.write(f"the cluster's DNS finds {READER} in a pod")


def check_load(trial: Trial, what: str, figures: dict[str, object]) -> None:
    text = ", ".join(f"{figures[name]} {name.replace('_', ' ')}" for name in ("requests", "lost", "resent", "seconds"))
    trial.write(f"{what}: {text}, p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms")
    if figures["lost"]:
        raise TrialError(f"requests were lost: {figures['examples']}")


def upgrade_under_load(trial: Trial) -> None:
    """Change a setting by `helm upgrade`, which replaces every reader, while they are asked."""
    before = trial.list_readers()
    with trial.load(8) as asked:
        time.sleep(3)
        began = time.monotonic()
        trial.install(*UPGRADED)
        seconds = time.monotonic() - began
        trial.wait_until(120, "the end of the old readers", lambda: not set(before) & set(trial.list_readers()))
        time.sleep(3)
    check_load(trial, f"helm upgrade, all readers replaced in {seconds:.0f} s, under load", asked)


def drain_reader(trial: Trial) -> None:
    """Evict a reader, as `kubectl drain` does with each pod of a node, while they are asked."""
    pod = trial.list_readers()[0].removeprefix("pod/")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": SPACE}}
    path = f"/api/v1/namespaces/{SPACE}/pods/{pod}/eviction"
    with trial.load(8) as asked:
        time.sleep(3)
        began = time.monotonic()
        trial.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))
        trial.wait_until(240, "the end of the evicted reader", lambda: f"pod/{pod}" not in trial.list_readers())
        seconds = time.monotonic() - began
        trial.wait_until(240, "a reader in its place", lambda: trial.count_ready(READER) >= 2)
        time.sleep(3)
    check_load(trial, f"a reader was evicted and gone after {seconds:.0f} s, under load", asked)


def scale_by_metric(trial: Trial) -> None:
    """Let requests in flight ask for more readers; those of the step before are over when the autoscaler comes."""
    time.sleep(30)  # its metric is the mean of 20 s
    scaling = ["--set-json", 'reader.autoscaling={"kind": "hpa", "min": 1, "max": 3, "inFlight": 0.2}']
    trial.install(*UPGRADED, *scaling)  # no reader is replaced: the processor's time of a start asks for more, too
    before = trial.count_ready(READER)
    if before >= 3:
        raise TrialError(f"there are {before} readers before the load")
    with trial.load(16) as asked:
        trial.wait_until(180, "a third reader", lambda: trial.count_ready(READER) >= 3)
    metric = trial.kubectl("get", "hpa", READER, "--no-headers")
    check_load(trial, f"load until the autoscaler had made 3 readers of {before}", asked)
    trial.write(f"autoscaler: {' '.join(metric.split())}")


def uninstall(trial: Trial) -> None:
    trial.helm("uninstall", "forecache", "--wait")
    kinds = "deployments,pods,services,jobs,cronjobs,configmaps,serviceaccounts,roles,networkpolicies,hpa,pdb"
    # The ended jobs of Dagster's runs are no part of the release: Kubernetes removes them after a day.
    selector = "app.kubernetes.io/instance=forecache,app.kubernetes.io/component!=run"

    def list_left() -> str:
        return trial.kubectl("get", kinds, "--selector", selector, "--output", "name")

    with contextlib.suppress(TrialError):  # Kubernetes removes what belonged to what Helm has removed
        trial.wait_until(180, "the end of all objects", lambda: not list_left())
    if left := list_left():
        raise TrialError(f"helm uninstall left {left}")
    trial.write("helm uninstall: of the release only the ended jobs of runs are left; the bucket and the databases are")


STEPS = (
    *(build, start_services, make_secrets, land_files, do_nights_alone, run_main_job, kill_run_pod, install),
    *(run_by_cron_job, compare_with_alone, follow_stream, upgrade_under_load, drain_reader, scale_by_metric, uninstall),
)


def main(transcript: str = "kubernetes.txt", *names: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="forecache-kubernetes-"))
    trial = Trial(folder, Path(transcript))
    try:
        for step in STEPS:
            if not names or step.__name__ in names:
                step(trial)
        used = trial.run("du", "--summarize", "--block-size", "1M", str(CACHE)).split()[0]
        trial.write(f"done; the cache takes {int(used) / 1000:.1f} GB, with the node and its images")
    finally:
        trial.run("bash", str(SCRIPTS / "cluster.sh"), "stop")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
