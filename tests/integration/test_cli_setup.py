"""`make setup` run again: no network, nothing written; what it installs is what the package asks for."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from forecache.base.settings import load_settings
from forecache.kit.spark.configuration import JARS
from forecache.plugins.spark_stream.engine import FOLDER, kafka_jars

ROOT = Path(__file__).resolve().parents[2]
STAMP = ROOT / ".tools" / "setup.stamp"
MODULES = ("__init__", "models/__init__", "models/tracking/__init__", "models/tracking/client")
"""What set-up runs to make an empty database."""


@pytest.mark.skipif(not STAMP.exists(), reason="this environment was not made by `make setup`")
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="taking the network away needs root")
def test_setup_again_needs_no_network_and_writes_nothing(tmp_path: Path) -> None:
    before = STAMP.stat().st_mtime_ns
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            ["unshare", "--net", "bash", "scripts/setup.sh"], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)  # what this child took, and none that another test has left
        process.returncode = os.waitstatus_to_exitcode(status)
    assert (process.returncode, (tmp_path / "said").read_text()) == (0, "")
    assert used.ru_utime + used.ru_stime < 5  # not of a clock, which a busy machine moves
    assert STAMP.stat().st_mtime_ns == before


@pytest.fixture
def bare_project(tmp_path: Path) -> Path:
    """A folder in which set-up runs as ever, but finds stand-ins for uv, the environment and the jars there."""
    for folder in (
        "scripts",
        "forecache/kit/spark",
        "forecache/models/tracking",
        f".tools/jars/{FOLDER}",
        ".tools/uv/bin",
        ".venv/bin",
    ):
        (tmp_path / folder).mkdir(parents=True)
    pyspark_jars = tmp_path / ".venv/lib/python3.11/site-packages/pyspark/jars"
    pyspark_jars.mkdir(parents=True)
    for file in ("scripts/setup.sh", "forecache/kit/spark/configuration.py", "uv.lock", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    of_streams = kafka_jars(load_settings())
    names = [*JARS, *(f"{FOLDER}/{jar.name}" for jar in of_streams)]
    for file in (*(tmp_path / ".tools/jars" / jar for jar in names), pyspark_jars / "spark.jar"):
        file.touch()
    for file in ("scripts/resolve_jars.py", *(f"forecache/{name}.py" for name in MODULES)):
        (tmp_path / file).touch()
    version = re.search(r"^UV_VERSION=(.*)$", (ROOT / "scripts/setup.sh").read_text(), re.MULTILINE)
    assert version is not None
    executables = {".tools/uv/bin/uv": f"echo uv {version[1]}", ".venv/bin/python": f'exec {sys.executable} "$@"'}
    for path, line in executables.items():
        (tmp_path / path).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / path).chmod(0o755)
    if (ROOT / ".tools/java").exists():
        (tmp_path / ".tools/java").symlink_to(ROOT / ".tools/java")
    return tmp_path


def set_up(project: Path, *arguments: str, path: str = "") -> str:
    """What set-up prints; it has to succeed.

    Args:
        path: A folder whose programs go before others.
    """
    done = subprocess.run(
        ["bash", "scripts/setup.sh", *arguments], cwd=project, capture_output=True, text=True, check=True,
        stdin=subprocess.DEVNULL, env={**os.environ, "PATH": os.pathsep.join(filter(None, [path, os.environ["PATH"]]))},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def test_setup_goes_on_without_an_archive_of_classes_and_makes_one_only_where_it_would_differ(
    bare_project: Path,
) -> None:
    script, lock = bare_project / "scripts/archive_classes.py", bare_project / "uv.lock"
    archive = bare_project / ".tools/jars/classes.jsa"
    script.write_text("raise SystemExit('no memory for that')")
    assert "Spark will start more slowly: no memory for that" in set_up(bare_project)
    assert set_up(bare_project) == ""

    script.write_text("import sys\nwith open(f'{sys.argv[1]}/classes.jsa', 'a') as file:\n    file.write('made ')")
    set_up(bare_project)
    assert archive.read_text() == "made "
    lock.write_text(lock.read_text() + "# another lock, and the same jars\n")
    assert "[setup] ready" in set_up(bare_project)
    assert archive.read_text() == "made "
    (bare_project / ".tools/jars" / JARS[0]).write_text("another jar")
    lock.write_text(lock.read_text() + "# and other ones\n")
    set_up(bare_project)
    assert archive.read_text() == "made made "


def test_jars_for_s3_are_resolved_only_when_asked_for(bare_project: Path) -> None:
    log = bare_project / "resolved"
    script = "import sys\nwith open('resolved', 'a') as file:\n    print(*sys.argv[1:3], file=file)"
    (bare_project / "scripts/resolve_jars.py").write_text(script)
    (bare_project / "scripts/archive_classes.py").touch()
    set_up(bare_project)
    assert log.read_text().splitlines() == [".tools/jars --java", ".tools/jars/kafka --streams"]
    assert "Spark jars for S3" in set_up(bare_project, "--s3")
    assert log.read_text().splitlines()[2:] == [".tools/jars/s3 --s3"]
    (bare_project / ".tools/jars/s3").mkdir()
    (bare_project / ".tools/jars/s3/hadoop-aws-3.4.2.jar").touch()
    assert set_up(bare_project, "--s3") == ""


@pytest.mark.parametrize("of_streams", [False, True])
def test_jars_that_setup_resolves_are_those_that_spark_gets(tmp_path: Path, of_streams: bool) -> None:
    jars = kafka_jars(load_settings()) if of_streams else [ROOT / ".tools" / "jars" / jar for jar in JARS]
    for jar in jars:
        (tmp_path / jar.name).symlink_to(jar)
    options = ["--java", "/no/java", *(["--streams"] if of_streams else [])]
    done = subprocess.run(
        [sys.executable, "scripts/resolve_jars.py", str(tmp_path), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {jar.name for jar in jars}


def test_jar_that_cannot_be_resolved_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / JARS[0]).write_bytes(b"half a download")
    done = subprocess.run(
        [sys.executable, "scripts/resolve_jars.py", str(tmp_path), "--java", "/no/java"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "io.delta:delta-spark_4.1_2.13:4.4.0 could not be resolved" in done.stderr
    assert f"copy {JARS[0]}" in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"setup", "demo", "dev", "test", "lint", "unit", "bench-store", "bench-scoring", "bench-training"} <= listed


@pytest.mark.parametrize(("first_ns", "chosen"), [(1050, "python3"), (2000, "python3.12")])
def test_setup_takes_the_first_python_unless_another_one_is_clearly_faster(
    bare_project: Path, tmp_path_factory: pytest.TempPathFactory, first_ns: int, chosen: str
) -> None:
    (bare_project / "scripts/archive_classes.py").touch()
    pythons = tmp_path_factory.mktemp("pythons")
    for name, ns in (("python3", first_ns), ("python3.12", 1000)):
        answers = f'case "$2" in *realpath*) echo "$0" ;; *timeit*) echo {ns} ;; *) exec {sys.executable} "$@" ;; esac'
        (pythons / name).write_text(f"#!/bin/sh\n{answers}\n")
        (pythons / name).chmod(0o755)
    assert f" at {pythons / chosen}\n" in set_up(bare_project, path=str(pythons))


def test_the_demo_gets_no_tools_of_development_and_an_environment_that_has_them_keeps_them(
    bare_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing can be reached
    (bare_project / "scripts/archive_classes.py").touch()
    uv, asked = bare_project / ".tools/uv/bin/uv", bare_project / "asked"
    uv.write_text(uv.read_text() + f'echo "$@" >>{asked}\nif [ "$1" = pip ]; then cat >/dev/null; fi\n')

    def installs(*arguments: str) -> list[str]:
        asked.write_text("")
        said = set_up(bare_project, *arguments)
        assert ("[setup] ready" in said) == ("pip install" in asked.read_text() or "sync" in asked.read_text())
        return [line for line in asked.read_text().splitlines() if line.startswith(("export", "sync"))]

    (export,) = installs("--demo")
    assert "--no-dev" in export
    assert {"spark", "train", "dagster", "local"} <= set(re.findall(r"--extra (\w+)", export))
    assert installs("--demo") == []
    (sync,) = installs()
    assert sync.startswith("sync --locked")
    assert installs("--demo") == []
    (bare_project / "uv.lock").write_text("another lock")
    (sync,) = installs("--demo")
    assert sync.startswith("sync --locked")
