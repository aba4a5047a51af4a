"""A trial of the chart on a cluster of one node: commands here, on the node and in the cluster, load, a transcript.

`prove.py`, `runs.py` and `streams.py` have the steps of a trial.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent.parent
CHART = ROOT / "deploy/helm/forecache"
CACHE = Path(
    os.environ.get("FORECACHE_KUBERNETES_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "forecache-kubernetes"
)
ADDRESS, SPACE, READER = "10.200.0.10", "forecache", "forecache-reader"
PIPELINE, KEYS = "user_risk", 300
Found = TypeVar("Found")


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
            timeout=1800,
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
        self.helm("upgrade", "--install", "forecache", str(CHART), "--wait", "--timeout", "20m", *values)

    def wait_until(self, seconds: float, what: str, find: Callable[[], Found]) -> Found:
        """Wait for something that is found, or true; returns it. TrialError if it does not come."""
        end = time.monotonic() + seconds
        while not (found := find()):
            if time.monotonic() > end:
                raise TrialError(f"{what} did not come within {seconds:.0f} s")
            time.sleep(1)
        return found

    @contextlib.contextmanager
    def run_meanwhile(
        self, stop: Path, script: str, *arguments: str, env: dict[str, str]
    ) -> Iterator[dict[str, object]]:
        """Run a script on the node while the body runs, which ends once the file `stop` is there.

        Afterwards the yielded dict holds what it printed. TrialError if it failed.
        """
        process = subprocess.Popen(
            ["bash", str(SCRIPTS / "cluster.sh"), "run", sys.executable, str(SCRIPTS / script), *arguments],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            text=True,
        )
        printed: dict[str, object] = {}
        try:
            yield printed
        finally:
            stop.touch()
            said, _ = process.communicate(timeout=120)
        if process.returncode:
            raise TrialError(f"{script} ended with {process.returncode}: {said}")
        printed.update(json.loads(said))

    def load(self, threads: int) -> contextlib.AbstractContextManager[dict[str, object]]:
        """Ask the readers through their Service while the body runs; afterwards the yielded dict holds the figures."""
        stop = self.folder / f"stop-{time.monotonic_ns()}"
        url = f"http://{self.get_service_address(READER)}/v1/{PIPELINE}"
        arguments = [str(stop), str(threads), str(KEYS), url]
        return self.run_meanwhile(stop, "load.py", *arguments, env={"TOKEN": self.tokens["shop"]})

    def ask_reader(self, key: str) -> dict[str, Any]:
        url = f"http://{self.get_service_address(READER)}/v1/{PIPELINE}/{key}"
        header = f"Authorization: Bearer {self.tokens['shop']}"
        return dict(json.loads(self.node("curl", "--silent", "--max-time", "10", "--header", header, url)))

    def list_pods(self, component: str) -> list[str]:
        selector = ["--selector", f"app.kubernetes.io/component={component}"]
        return self.kubectl("get", "pods", *selector, "--output", "name").split()

    def list_readers(self) -> list[str]:
        return self.list_pods("reader")

    def get_service_address(self, name: str) -> str:
        return self.kubectl("get", "service", name, "--output", "jsonpath={.spec.clusterIP}")

    def count_ready(self, deployment: str) -> int:
        return int(self.kubectl("get", "deployment", deployment, "--output", "jsonpath={.status.readyReplicas}") or 0)


def find_helm() -> Path:
    found = [path for path in (ROOT / ".tools/bin/helm", Path(shutil.which("helm") or "")) if path.is_file()]
    if not found:
        raise TrialError("There is no helm: bash scripts/install_test_services.sh helm")
    return found[0]


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
