"""A real Prometheus and Alertmanager for tests, with the files of deploy/monitoring but for times and addresses."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from free_ports import free_port
from store_services import INSTALL

from forecache.base.settings import PROJECT_ROOT

MONITORING = PROJECT_ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "forecache.json").read_text())


def program(name: str) -> str:
    """The path of an installed program; the test is skipped without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: {INSTALL} promtool alertmanager")
    return found


@dataclass
class Prometheus:
    """A running Prometheus."""

    url: str
    process: "subprocess.Popen[bytes]"

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, f"{path} {parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found


@contextmanager
def started(command: list[str], folder: Path, ready: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A server that answers at `ready`; it is ended with the test."""
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 120
            while not _answers(ready):
                assert process.poll() is None, (folder / "log.txt").read_text()
                assert time.monotonic() < deadline, (folder / "log.txt").read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def alertmanager(folder: Path, receiver: str) -> Iterator[str]:
    """The address of an Alertmanager that waits for a second where the shipped one waits for longer."""
    config = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "1s", "group_interval": "1s"}
    for each in config["receivers"]:
        [hook] = each["webhook_configs"]
        hook["url"] = hook["url"].replace("http://127.0.0.1:9099", receiver)
    file, port = folder / "alertmanager.yml", free_port()
    file.write_text(yaml.safe_dump(config))
    command = [
        program("prometheus-alertmanager"),
        f"--config.file={file}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with started(command, folder, f"http://127.0.0.1:{port}/-/ready"):
        yield f"127.0.0.1:{port}"


@contextmanager
def prometheus(folder: Path, *, reader: str, batch: str, alerts: str, every: str = "1s") -> Iterator[Prometheus]:
    """A Prometheus that scrapes each second, or as often as `every` says; addresses are host:port."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), every)
    config["rule_files"] = []
    for name in ("recording", "alerts"):
        rules = yaml.safe_load((MONITORING / "rules" / f"{name}.yml").read_text())
        for group in rules["groups"]:
            group["interval"] = every
        (folder / f"{name}.yml").write_text(yaml.safe_dump(rules))
        config["rule_files"].append(f"{name}.yml")
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alerts]
    for job, target in zip(config["scrape_configs"], (reader, batch), strict=True):
        job.pop("scrape_interval", None)
        job.pop("scrape_timeout", None)
        job["static_configs"][0]["targets"] = [target]
    file, port = folder / "prometheus.yml", free_port()
    file.write_text(yaml.safe_dump(config))
    command = [
        program("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with started(command, folder, f"http://127.0.0.1:{port}/-/ready") as process:
        yield Prometheus(f"http://127.0.0.1:{port}", process)


def panels() -> list[tuple[str, str]]:
    """Title and query of each panel, with the variables of the dashboard at "All"."""
    return [
        (panel["title"], target["expr"].replace("$job", ".*").replace("$model", ".*"))
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    ]


def metrics_in(expression: str) -> set[str]:
    """The metrics, and recorded series, that an expression reads."""
    named = r"\b(?:job\w*:[\w:]+|(?:forecache|process|http_server)_\w+|up)\b"
    return set(re.findall(named, re.sub(r'"[^"]*"', '""', expression)))


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules" / f"{name}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]
