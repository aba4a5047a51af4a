"""Install the chart on a cluster of one node that has nothing yet, use it as a company does, and write what happened.

Object store and database are processes on the node, outside Kubernetes, as managed services are. `make kubernetes`
calls it.

Usage: .venv/bin/python scripts/kubernetes/prove.py [TRANSCRIPT]
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent.parent
CHART = ROOT / "deploy/helm/forecache"
CACHE = Path(
    os.environ.get("FORECACHE_KUBERNETES_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "forecache-kubernetes"
)
ADDRESS, SPACE, READER = "10.200.0.10", "forecache", "forecache-reader"
PIPELINE, KEYS = "user_risk", 300


class TrialError(Exception):
    """A step that did not do what it has to."""


class Trial:
    """A cluster that runs, a folder of the trial's own, and the lines that were written about it."""

    def __init__(self, folder: Path, transcript: Path) -> None:
        self.folder, self.transcript = folder, transcript
        self.began = time.monotonic()
        self.secret = secrets.token_hex(12)
        self.tokens: dict[str, str] = {}
        transcript.write_text("")

    def write(self, text: str) -> None:
        line = f"{time.monotonic() - self.began:6.0f} s  {text}"
        print(line, flush=True)
        with self.transcript.open("a") as opened:
            opened.write(line + "\n")

    def run(self, *command: str, env: dict[str, str] | None = None, stdin: str | None = None) -> str:
        """Run a command of this machine; TrialError with what it wrote if it fails."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            raise TrialError(
                f"{' '.join(command)[:200]} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return done.stdout.strip()

    def node(self, *command: str, env: dict[str, str] | None = None) -> str:
        return self.run("bash", str(SCRIPTS / "cluster.sh"), "run", *command, env=env)

    def start_on_node(self, name: str, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (CACHE / f"node/log/{name}.txt").open("wb") as log:
            whole = ["bash", str(SCRIPTS / "cluster.sh"), "run", *command]
            return subprocess.Popen(whole, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=log, stderr=log)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.run("bash", str(SCRIPTS / "cluster.sh"), "kubectl", "--namespace", SPACE, *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        return self.node(str(find_helm()), "--namespace", SPACE, *arguments)

    def install(self, *arguments: str) -> None:
        """Install the chart, or upgrade it, and wait until all of it is ready."""
        values = ["--values", str(SCRIPTS / "values.yaml"), *arguments]
        self.helm("upgrade", "--install", "forecache", str(CHART), "--wait", "--timeout", "10m", *values)

    def wait_until(self, seconds: float, what: str, is_so: Callable[[], object]) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end:
                raise TrialError(f"{what} did not come within {seconds:.0f} s")
            time.sleep(1)

    @contextlib.contextmanager
    def load(self, threads: int) -> Iterator[dict[str, object]]:
        """Ask the readers through their Service while the body runs; afterwards the yielded dict holds the figures."""
        stop = self.folder / f"stop-{time.monotonic_ns()}"
        url = f"http://{self.get_service_address(READER)}/v1/{PIPELINE}"
        command = [sys.executable, str(SCRIPTS / "load.py"), str(stop), str(threads), str(KEYS), url]
        process = subprocess.Popen(
            ["bash", str(SCRIPTS / "cluster.sh"), "run", *command],
            cwd=ROOT,
            env={**os.environ, "TOKEN": self.tokens["shop"]},
            stdout=subprocess.PIPE,
            text=True,
        )
        figures: dict[str, object] = {}
        try:
            yield figures
        finally:
            stop.touch()
            said, _ = process.communicate(timeout=60)
            figures.update(json.loads(said or "{}"))

    def get_service_address(self, name: str) -> str:
        return self.kubectl("get", "service", name, "--output", "jsonpath={.spec.clusterIP}")

    def count_ready(self, deployment: str) -> int:
        return int(self.kubectl("get", "deployment", deployment, "--output", "jsonpath={.status.readyReplicas}") or 0)


def find_helm() -> Path:
    found = [path for path in (ROOT / ".tools/bin/helm", Path(shutil.which("helm") or "")) if path.is_file()]
    if not found:
        raise TrialError("There is no helm: bash scripts/install_test_services.sh helm")
    return found[0]


def start_services(trial: Trial) -> None:
    """Start MinIO and PostgreSQL on the node, with a bucket and two databases."""
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
    psql = ["psql", f"postgresql://forecache:{trial.secret}@{ADDRESS}/postgres"]

    def is_up() -> bool:
        with contextlib.suppress(TrialError):
            trial.node("curl", "--silent", "--fail", f"http://{ADDRESS}:9000/minio/health/ready")
            trial.node(*psql, "--command", "SELECT 1")
            return True
        return False

    trial.wait_until(60, "MinIO and PostgreSQL", is_up)
    for name in ("dagster", "mlflow"):
        trial.node(*psql, "--command", f"CREATE DATABASE {name}")
    trial.write("an object store (MinIO) and a database (PostgreSQL) answer beside the cluster")


def get_settings(trial: Trial) -> dict[str, str]:
    """The settings with secrets, which the Secret `forecache` has."""
    options = {
        "AWS_ACCESS_KEY_ID": "forecache",
        "AWS_SECRET_ACCESS_KEY": trial.secret,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{ADDRESS}:9000",
        "AWS_ALLOW_HTTP": "true",
    }
    database = f"postgresql://forecache:{trial.secret}@{ADDRESS}"
    return {
        "FORECACHE_STORAGE_OPTIONS": json.dumps(options),
        "FORECACHE_MLFLOW_URI": f"{database}/mlflow",
        "FORECACHE_DAGSTER_URI": f"{database}/dagster",
    }


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


def publish_from_node(trial: Trial) -> None:
    """Land files and publish the newest night from this checkout, as a machine outside the cluster does."""
    root = "s3://forecache/prod"
    places = {"LAKE": "lake", "LANDING": "landing", "STORE_REMOTE": "store", "MLFLOW_ARTIFACTS": "mlflow"}
    env = {f"FORECACHE_{name}": f"{root}/{place}" for name, place in places.items()} | get_settings(trial)
    env |= {"FORECACHE_HOME": str(trial.folder / "home"), "FORECACHE_PROJECT": "fraud", "PYTHONPATH": "examples/fraud"}
    del env["FORECACHE_DAGSTER_URI"]  # its runs are a machine's own
    modules = "from forecache.base import settings; from forecache.plugins.new_project import demo_data"
    trial.node(sys.executable, "-c", f"{modules}; demo_data.land_demo_data(settings.load_settings())", env=env)
    forecache = [sys.executable, "-m", "forecache.cli.main"]
    trial.node(*forecache, "run", PIPELINE, "--job", "nightly", env=env)
    trial.node(*forecache, "push", PIPELINE, env=env)
    trial.write(f"{PIPELINE}: landed, ingested, checked, scored and published by a machine outside the cluster")


def install(trial: Trial) -> None:
    began = time.monotonic()
    trial.install()
    seconds, ready = time.monotonic() - began, trial.count_ready(READER)
    trial.write(f"helm install: tables of Dagster and MLflow made, {ready} readers ready after {seconds:.0f} s")
    with trial.load(4) as asked:
        time.sleep(5)
    check_load(trial, "readers through their Service", asked)
    find = f"import socket; print(socket.gethostbyname('{READER}'))"
    address = trial.kubectl("exec", list_readers(trial)[0], "--container", "reader", "--", "python", "-c", find)
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
    before = trial.kubectl(
        "get", "pods", "--selector", "app.kubernetes.io/component=reader", "--output", "name"
    ).split()
    with trial.load(8) as asked:
        time.sleep(3)
        began = time.monotonic()
        trial.install("--set", "settings.FORECACHE_READER_SCRUB_S=3600")
        seconds = time.monotonic() - began
        trial.wait_until(120, "the end of the old readers", lambda: not set(before) & set(list_readers(trial)))
        time.sleep(3)
    check_load(trial, f"helm upgrade, all readers replaced in {seconds:.0f} s, under load", asked)


def list_readers(trial: Trial) -> list[str]:
    return trial.kubectl("get", "pods", "--selector", "app.kubernetes.io/component=reader", "--output", "name").split()


def scale_by_metric(trial: Trial) -> None:
    """Let requests in flight ask for more readers."""
    scaling = ["--set-json", 'reader.autoscaling={"kind": "hpa", "min": 1, "max": 3, "inFlight": 0.2}']
    trial.install(*scaling)
    with trial.load(16) as asked:
        trial.wait_until(180, "a third reader", lambda: trial.count_ready(READER) >= 3)
    metric = trial.kubectl("get", "hpa", READER, "--no-headers")
    check_load(trial, "load until the autoscaler had made 3 readers of 1", asked)
    trial.write(f"autoscaler: {' '.join(metric.split())}")


def uninstall(trial: Trial) -> None:
    trial.helm("uninstall", "forecache", "--wait")
    kinds = "deployments,pods,services,jobs,cronjobs,configmaps,serviceaccounts,roles,networkpolicies,hpa,pdb"
    labelled = ["--selector", "app.kubernetes.io/instance=forecache", "--output", "name"]
    trial.wait_until(120, "the end of all pods", lambda: not trial.kubectl("get", "pods", "--output", "name"))
    left = trial.kubectl("get", kinds, *labelled)
    if left:
        raise TrialError(f"helm uninstall left {left}")
    trial.write("helm uninstall: nothing of the release is left; the bucket and the databases are")


def main(transcript: str = "kubernetes.txt") -> None:
    folder = Path(tempfile.mkdtemp(prefix="forecache-kubernetes-"))
    trial = Trial(folder, Path(transcript))
    steps = [build, start_services, make_secrets, publish_from_node, install, upgrade_under_load, scale_by_metric]
    try:
        for step in [*steps, uninstall]:
            step(trial)
        used = trial.run("du", "--summarize", "--block-size", "1M", str(CACHE)).split()[0]
        trial.write(f"done; the cache takes {int(used) / 1000:.1f} GB, with the node and its images")
    finally:
        trial.run("bash", str(SCRIPTS / "cluster.sh"), "stop")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
