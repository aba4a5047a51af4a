"""The first hour of a user: from the wheel and an empty environment to an explained answer, without Java and torch."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from free_ports import free_port
from release_script import UV, build_wheel
from waiting import wait_for

from forecache.base.settings import PROJECT_ROOT

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ABSENT = ("dagster", "great_expectations", "matplotlib", "onnxruntime", "pyspark", "torch")
KEY = "c0022"


@contextmanager
def timed(what: str, taken: dict[str, float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    taken[what] = time.perf_counter() - started


def test_from_an_empty_environment_to_an_explained_answer(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path / "dist")
    venv, shop, taken = tmp_path / "venv", tmp_path / "shop", dict[str, float]()
    environment = {"PATH": f"{venv / 'bin'}:/usr/bin:/bin", "HOME": os.environ["HOME"], "LC_ALL": "C.UTF-8"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}

    def run(*command: str | Path, cwd: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    # The locked versions, so that what others release does not change this test.
    locked = ("export", "--quiet", "--frozen", "--all-extras", "--no-dev", "--no-hashes", "--no-emit-project")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(run(UV, *locked, cwd=PROJECT_ROOT))
    run(UV, "venv", "--quiet", "--seed", "--python", sys.executable, venv)
    pip = (venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints)
    with timed("pip install", taken):
        run(*pip, f"forecache[local] @ {wheel.as_uri()}")
    megabytes = sum(path.lstat().st_blocks * 512 for path in venv.rglob("*")) / 1e6
    looking = f"from importlib.util import find_spec; print(*filter(find_spec, {ABSENT}))"
    assert run(venv / "bin" / "python", "-c", looking).split() == []

    with timed("init", taken):
        run("forecache", "init", "shop", "--template", "batch")
    with timed("landing files", taken):
        assert "60 new files" in run("make", "data", cwd=shop)
    with timed("run", taken):
        assert "passed the gate" in run("forecache", "run", "--job", "full", cwd=shop)
    port = free_port()
    with timed("served answer", taken), serving(shop, environment, port):
        answer = get_answer(port)
    with timed("explain", taken):
        chain = json.loads(run("forecache", "explain", "returns", KEY, "--json", cwd=shop))

    yesterday = (datetime.now(timezone.utc).date() - timedelta(days=1)).isoformat()
    assert answer["key"] == KEY
    assert 0 < answer["value"]["return_probability"] < 1
    assert (answer["as_of"], answer["stale"], answer["model"]) == (yesterday, False, {"name": "returns", "version": 1})
    assert chain["answer"]["value"] == answer["value"]
    assert chain["model"]["version"] == 1
    (raw,) = chain["raw"]
    assert raw["table"] == "raw_orders"
    assert raw["events"] > 0
    assert (shop / ".forecache" / "landing" / "orders" / raw["lines"][-1]["file"]).is_file()

    # A colleague and CI have the project's folder alone, and an index with Forecache.
    run(*pip, "--find-links", wheel.parent, "--editable", f"{shop}[test]")
    assert "3 passed" in run("make", "test", cwd=shop)

    taken["all"] = sum(taken.values())
    print(f"{megabytes:.0f} MB;", ", ".join(f"{what} {seconds:.1f} s" for what, seconds in taken.items()))


@contextmanager
def serving(folder: Path, environment: dict[str, str], port: int) -> Iterator[None]:
    with (folder / "server.log").open("wb") as log:
        command = ["forecache", "serve", "--port", str(port)]
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        time.sleep(0.1)
        server.terminate()  # the second one does not wait for a load balancer
        server.wait(30)


def get_answer(port: int) -> dict[str, Any]:
    def ask() -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/returns/{KEY}", timeout=10) as response:
                found: dict[str, Any] = json.load(response)
                return found
        except HTTPError as error:
            if error.code != 503:  # it is not ready yet
                raise
            return None
        except OSError:  # it does not listen yet
            return None

    found = wait_for(ask, seconds=60)
    assert found is not None
    return found
