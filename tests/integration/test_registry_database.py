"""MLflow's database: from set-up's template or without one it is the same, also after a kill and with two at once."""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from forecache.models.tracking import client as database
from forecache.models.tracking.client import prepare_database

pytestmark = pytest.mark.slow

PREPARE = "import sys; from pathlib import Path\n"
PREPARE += "from forecache.models.tracking.client import prepare_database as prepare\n"
PREPARE += "prepare(Path(sys.argv[1]), sys.argv[2])"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tools") / "mlflow.sqlite"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "_template", lambda: path)
        database.main()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return path


def prepared(home: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(database, "_template", lambda: template)
    path = home / "mlflow.db"
    prepare_database(path, f"{home}/mlflow/artifacts")
    assert path.with_name("mlflow.db.ready").read_text() == f"{home}/mlflow/artifacts"
    return path


def content(path: Path) -> tuple[list[list[str]], list[tuple[str]], list[tuple[str]]]:
    """Tables, MLflow's version of them, experiments; migrations write a table's constraints in any order."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("select sql from sqlite_master where sql is not null").fetchall()
        tables = sorted(sorted(re.split(r"[,()\s]+", sql)) for (sql,) in found)
        version = connection.execute("select version_num from alembic_version").fetchall()
        return tables, version, connection.execute("select name from experiments").fetchall()


def test_a_database_from_the_template_is_the_one_that_mlflow_makes(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = prepared(tmp_path / "with", template, monkeypatch)
    made = prepared(tmp_path / "without", tmp_path / "missing", monkeypatch)
    assert content(copied) == content(made)


@pytest.mark.parametrize("left", [".mlflow.db.draft", "mlflow.db"])
def test_a_preparation_that_was_killed_is_finished_by_the_next(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    whole = template.read_bytes()
    (tmp_path / left).write_bytes(whole if left == "mlflow.db" else whole[:5000])
    assert content(prepared(tmp_path, template, monkeypatch)) == content(template)
    assert not (tmp_path / ".mlflow.db.draft").exists()


def test_two_processes_that_prepare_a_home_at_once_leave_one_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    command = [sys.executable, "-c", PREPARE, str(path), f"{tmp_path}/mlflow/artifacts"]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert content(path)[2] == [("Default",)]


EXPERIMENTS = """
import os, sys
from types import SimpleNamespace
from forecache.base.settings import load_settings
from forecache.models.tracking.client import connect_mlflow
from forecache.models.tracking.runs import experiment_of
settings = load_settings(home=sys.argv[1])
connect_mlflow(settings)
waits, starts = os.pipe()
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        os.close(starts)
        os.read(waits, 1)  # until all have been made
        try:
            client = connect_mlflow(settings)
            said = " ".join(experiment_of(settings, client, SimpleNamespace(name=f"p{n}")) for n in range(20))
        except BaseException as error:
            said = f"{type(error).__name__}: {str(error)[:100]}"
        os.write(1, f"{said}\\n".encode())  # print may write word by word, between those of another child
        os._exit(0)
    children.append(child)
os.close(starts)
for child in children:
    os.waitpid(child, 0)
"""


def test_trainings_that_make_an_experiment_at_once_share_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXPERIMENTS, str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    first, *others = done.stdout.splitlines()
    assert len(set(first.split())) == 20
    assert others == [first, first]
