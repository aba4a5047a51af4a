"""The environment of the reader's image, built from its own requirements: small, and enough to pull and to serve."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from free_ports import free_port
from reader_support import RunningReader, churn_rows, write_version
from realtime_support import write_views
from release_support import a_request, make_release

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.replicas import push_releases
from forecache.serve.store import open_store, push
from forecache.serve.store.remote import open_remote

REQUIREMENTS = PROJECT_ROOT / "deploy" / "reader-requirements.txt"
UV = str(PROJECT_ROOT / ".tools" / "uv" / "bin" / "uv")
# Without boto3, which MLflow alone needs.
EXTRAS = "--extra reader --extra realtime --extra redis --extra s3"
EXPORT = f"uv export --quiet --frozen --no-dev --no-emit-project --no-header --prune boto3 {EXTRAS}"
LARGEST_BYTES = 400 * 10**6


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the image's PYTHONPATH names: the locked requirements and the package."""
    folder = tmp_path_factory.mktemp("image") / "forecache"
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--require-hashes", "--python", sys.executable, "--target", str(folder),
         "--requirement", str(REQUIREMENTS)],
        check=True, timeout=300,
    )  # fmt: skip
    shutil.copytree(PROJECT_ROOT / "forecache", folder / "forecache", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def environment(site: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(site),
        "FORECACHE_HOME": str(tmp_path / "replica"),
        "FORECACHE_STORE_REMOTE": str(tmp_path / "remote"),
        "FORECACHE_READER_TOKENS": str(tmp_path / "tokens.json"),
    }


def forecache(*arguments: str) -> list[str]:
    # Without the site-packages of the interpreter: nothing of this environment can help.
    return [sys.executable, "-S", "-m", "forecache.cli.main", *arguments]


@pytest.fixture
def published(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home")
    remote = open_remote(str(tmp_path / "remote"), {})
    for pipeline in ("churn", "spend"):
        write_version(settings.store_path, pipeline, churn_rows(50))
        push(open_store(settings, pipeline), remote)
    write_views(settings)
    for view in ("household", "product"):
        push(open_store(settings, view), remote)
    make_release(settings, deadline_ms=60_000.0)
    push_releases(open_releases(settings, "ranking"), remote)


def test_the_requirements_are_those_of_the_lock() -> None:
    exported = subprocess.run(
        [UV, *EXPORT.split()[1:]],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert exported.stdout == REQUIREMENTS.read_text(), f"run `{EXPORT} > deploy/reader-requirements.txt`"


@pytest.mark.slow
def test_a_reader_of_its_own_environment_pulls_and_serves(
    published: None, site: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert size < LARGEST_BYTES, f"the reader's environment has {size / 1e6:.0f} MB"

    def run(*arguments: str) -> str:
        done = subprocess.run(
            forecache(*arguments), env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    token = run("tokens", "create", "test", "--scope", "churn", "--scope", "ranking")
    pulled = [row["pipeline"] for row in json.loads(run("store", "pull", "--json"))]
    assert sorted(pulled) == ["churn", "household", "product", "ranking", "spend"]
    port = free_port()
    process = subprocess.Popen(
        forecache("serve", "--host", "0.0.0.0", "--port", str(port)), env=environment, cwd=tmp_path, text=True
    )
    reader = RunningReader(process, port)
    try:
        reader.wait_until_ready()
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=reader.url, headers=headers) as http:
            assert http.get("/v1/churn/00007").json()["value"] == churn_rows(50)["00007"]
            many = http.post("/v1/churn", json={"keys": [f"{number:05d}" for number in range(60)]}).json()
            assert [row["found"] for row in many["results"]] == [True] * 50 + [False] * 10
            feast = {"entities": {"customer_id": ["00007"]}, "features": ["churn:risk_segment"]}
            assert http.post("/get-online-features", json=feast).status_code == 200
            ranked = http.post("/v1/ranking", content=a_request()).json()
            assert (ranked["answered_by"], len(ranked["stores"])) == ("model", 2)
            assert [http.get(path).status_code for path in ("/v1/spend/00007", "/openapi.json")] == [403, 200]
        loaded = Path(f"/proc/{reader.workers()[0]}/maps").read_text() if os.path.isdir("/proc") else ""
        assert "site-packages" not in loaded
    finally:
        assert reader.stop() == 0
