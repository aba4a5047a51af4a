"""Every request of docs/how-to/serve.md works against a real server, and each answer has the members that it shows."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from list_tables import SERVED
from reader_support import RunningReader, churn_rows, running_reader, write_version

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.kit.http.problems import KINDS
from forecache.kit.metrics.metric import METRICS
from forecache.serve.reader import create_token
from forecache.serve.store import Field, KeyColumn, KeySchema

TEXT = (PROJECT_ROOT / "docs" / "how-to" / "serve.md").read_text()
REFERENCE = (PROJECT_ROOT / "docs" / "reference" / "http.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [content for kind, content in BLOCKS if kind == language]


def commands() -> list[str]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl")]


def shown() -> list[tuple[str, Any]]:
    """Each curl command that an answer is shown for, with the answer."""
    pairs = zip(BLOCKS, BLOCKS[1:], strict=False)
    return [(asked, json.loads(answer)) for (kind, asked), (next_, answer) in pairs if (kind, next_) == ("sh", "json")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningReader, str]]:
    folder = tmp_path_factory.mktemp("reader")
    settings = load_settings(home=folder / "home")
    for _ in range(7):
        write_version(settings.store_path, "churn", churn_rows(50))
    route = KeySchema((KeyColumn("origin", "string"), KeyColumn("dest", "string")))
    write_version(
        settings.store_path, "route_delay", {("JFK", "LAX"): {"delay": 7.5}}, key=route,
        fields=(Field("delay", "double"),),
    )  # fmt: skip
    items = [("milk", 0.91, "bought last week"), ("bread", 0.87, None), ("tea", 0.5, None)]
    recommended = {
        "items": [dict(zip(("item", "score", "reason"), each, strict=True)) for each in items],
        "vector": [0.25, -0.5, 1.0],
    }
    write_version(
        settings.store_path, "recommended", {"1234": recommended},
        fields=(Field("items", SERVED["items"]), Field("vector", SERVED["vector"])),
    )  # fmt: skip
    token, _ = create_token(folder / "tokens.json", "docs", ["*"])
    with running_reader(settings, reader_tokens=str(folder / "tokens.json")) as running:
        yield running, token


def curl(reader: tuple[RunningReader, str], command: str, *options: str) -> str:
    running, token = reader
    etag = httpx.get(f"{running.url}/v1/churn", headers={"authorization": f"Bearer {token}"}).headers["etag"]
    done = subprocess.run(
        ["bash", "-c", command.replace("curl", f"curl -sS {' '.join(options)}", 1)],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "READER": running.url, "TOKEN": token, "ETAG": etag},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("command", commands())
def test_a_documented_request_is_answered(reader: tuple[RunningReader, str], command: str) -> None:
    status = curl(reader, command, "-o /dev/null", "-w '%{http_code}'")
    assert status == ("304" if "If-None-Match" in command else "200")


@pytest.mark.parametrize(("command", "answer"), shown(), ids=["one", "many", "lists", "feast"])
def test_a_documented_answer_is_the_answer(reader: tuple[RunningReader, str], command: str, answer: Any) -> None:
    assert shape(json.loads(curl(reader, command))) == shape(answer)


def shape(answer: Any) -> Any:
    """An answer without what differs from day to day."""
    if isinstance(answer, list):
        return [shape(item) for item in answer]
    if isinstance(answer, dict):
        changing = ("as_of", "scored_at", "published_at", "age_s")
        return {name: type(item) if name in changing else shape(item) for name, item in answer.items()}
    return "a time" if isinstance(answer, str) and re.match(r"20\d\d-", answer) else answer


def test_the_documented_client_runs(reader: tuple[RunningReader, str], capsys: pytest.CaptureFixture[str]) -> None:
    running, token = reader
    for code in blocks("python"):
        exec(code, {"READER": running.url, "TOKEN": token})
    said = capsys.readouterr().out
    assert "00042 True {'risk_segment': 'medium'}" in said
    assert "nobody False None" in said
    assert said.count("Answer(key='00042'") == 1
    assert "Answer(key='JFK|LAX'" in said
    assert "\nmilk\n" in said


def test_the_document_knows_the_paths_and_the_problems_there_are_and_the_glossary_all_metrics(
    reader: tuple[RunningReader, str],
) -> None:
    running, token = reader
    with httpx.Client(base_url=running.url, headers={"authorization": f"Bearer {token}"}) as http:
        paths = http.get("/openapi.json").json()["paths"]
        names = re.findall(r"^# TYPE (\S+)", http.get("/metrics").text, re.MULTILINE)
    assert {path.replace("{pipeline}", "PIPELINE").replace("{key}", "KEY") for path in paths} == set(
        re.findall(r"^\| `(?:GET|POST) (\S+)`", TEXT, re.MULTILINE)
    )
    assert {kind.slug for kind in KINDS} <= set(re.findall(r"`([a-z-]+)`", REFERENCE))
    assert set(names) <= set(METRICS)


def test_the_feast_configuration_is_the_one_that_the_sdk_is_tested_with() -> None:
    [config] = [yaml.safe_load(block) for block in blocks("yaml") if "online_store" in block]
    tested = (Path(__file__).with_name("test_reader_feast.py")).read_text()
    for part in ('"type": "remote"', '"type": "file"', "entity_key_serialization_version=3", 'provider="local"'):
        assert part in tested
    assert config["online_store"]["type"] == "remote"
    assert (config["offline_store"]["type"], config["provider"]) == ("file", "local")
    assert config["entity_key_serialization_version"] == 3


@pytest.mark.parametrize("command", re.findall(r"^\$ forecache (.+)$", "".join(blocks("console")), re.MULTILINE))
def test_a_documented_command_exists(command: str) -> None:
    from click.testing import CliRunner

    from forecache.cli.main import cli

    words = command.split()
    said = CliRunner().invoke(cli, [*words[:2], "--help"]).output
    assert all(word in said for word in words if word.startswith("--"))
