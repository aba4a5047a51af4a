"""Each extra of the package alone in an environment: what it is for can be imported, and nothing heavier is there."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tomllib

from forecache.base.settings import PROJECT_ROOT
from forecache.kit.explain_errors import EXTRA_OF

UV = str(PROJECT_ROOT / ".tools" / "uv" / "bin" / "uv")
EXTRAS = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

pytestmark = pytest.mark.slow


def every(*packages: str, besides: tuple[str, ...] = ()) -> str:
    """A program that imports all modules of packages."""
    return (
        "import importlib, pkgutil\n"
        f"for name in {packages!r}:\n"
        "    package = importlib.import_module(name)\n"
        "    for found in pkgutil.walk_packages(getattr(package, '__path__', []), f'{name}.'):\n"
        f"        if not found.name.endswith(('__main__', '.orchestration', {', '.join(map(repr, besides))})):\n"
        "            importlib.import_module(found.name)\n"
    )


SURFACES = {
    "": every(
        "forecache.declare",
        "forecache.base.settings",
        "forecache.cli.main",
        besides=("realtime.request_rows", "realtime.log_records", "realtime.try_transform"),
    ),
    "reader": every("forecache.serve.reader", "forecache.serve.store.read", besides=("client", "calls")),
    "realtime": every("forecache.realtime", "forecache.declare", besides=("redis_reads",)),
    "client": "from forecache.serve.reader import Answer, AsyncClient, Client",
    "lake": every("forecache.lake", "forecache.serve.store", "forecache.operations", "forecache.plugins.drift"),
    "score": every("forecache.models.inference", "forecache.scoring", "forecache.models.tracking")
    + "import mlflow, onnxruntime\nfrom forecache.scoring import score",
    "local": "import alembic, lightgbm, mlflow, skops.io, sklearn, sqlalchemy\n"
    + every(
        "forecache.models",
        "forecache.scoring",
        "forecache.operations",
        "forecache.plugins.estimators",
        "forecache.night",
    )
    + "import forecache.runs, forecache.serve.reader.server",
    "spark": "import delta, pyspark\nfrom forecache.scoring import scoring_udf\n" + every("forecache.lake.quality"),
    "train": every("forecache.models.training", "forecache.models.registry"),
    "dagster": "import dagster_project.definitions",
    "recommend": "import implicit, scipy, threadpoolctl\n"
    + every("forecache.plugins.recommend", "forecache.plugins.mail"),
    "redis": "import redis",
    "cluster": "import dagster_k8s, dagster_project.definitions, resources.postgres",
    "s3": "import boto3, obstore",
    "sql": "import psycopg, sqlalchemy\n" + every("forecache.lake.sources"),
}
ABSENT = {
    "": ("numpy", "pyarrow", "dagster", "pyspark", "torch", "mlflow"),
    "reader": ("pyarrow", "dagster", "pyspark", "torch", "mlflow", "pandas"),
    "realtime": ("dagster", "pyspark", "torch", "mlflow", "pandas", "deltalake"),
    "client": ("numpy", "httptools", "pyarrow"),
    "lake": ("dagster", "pyspark", "torch", "mlflow"),
    "local": ("dagster", "great_expectations", "matplotlib", "onnxruntime", "pyspark", "torch"),
    "score": ("dagster", "pyspark", "torch"),
    "spark": ("dagster", "torch"),
    "train": ("dagster", "pyspark"),
    "dagster": ("pyspark", "torch", "mlflow"),
    "cluster": ("pyspark", "torch", "mlflow"),
    "recommend": ("dagster", "pyspark", "torch", "mlflow"),
    "sql": ("dagster", "pyspark", "torch", "mlflow"),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one environment lies that each test turns into its own.

    The compiled files of what several extras have are made once, since its paths stay the same. Those that this
    process's own environment has are taken from there; Python compiles again where one is older than its source.
    """
    folder = tmp_path_factory.mktemp("extras")
    libraries, there = Path(sysconfig.get_path("purelib")), folder / "venv"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(there), "platbase": str(there)}))
    own = ("forecache", "dagster_project", "assets", "jobs", "resources")
    for source, place in ((libraries, site), *((PROJECT_ROOT / name, PROJECT_ROOT / name) for name in own)):
        for parent, _, names in os.walk(source):
            if parent.endswith("__pycache__"):
                to = folder / "compiled" / (place / Path(parent).parent.relative_to(source)).relative_to("/")
                to.mkdir(parents=True, exist_ok=True)
                for name in names:
                    (to / name).symlink_to(Path(parent, name))
    return folder


@pytest.mark.parametrize("extra", SURFACES)
def test_an_extra_alone_is_enough_for_what_it_is_for(extra: str, workplace: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(workplace / "venv"), "UV_LINK_MODE": "symlink"}
    environment |= {"PYTHONPATH": str(PROJECT_ROOT), "FORECACHE_HOME": str(tmp_path / "home")}
    environment |= {"PYTHONPYCACHEPREFIX": str(workplace / "compiled")}
    wanted = ["--extra", extra] if extra else []
    if extra == "local":  # the mlflow of an extra before takes the files along that both have
        wanted += ["--reinstall-package", "mlflow-skinny"]
    subprocess.run(
        # `sync` is exact: what an extra before brought and this one does not is removed.
        [UV, "sync", "--quiet", "--frozen", "--no-dev", "--no-install-project", "--python", sys.executable, *wanted],
        cwd=PROJECT_ROOT, env=environment, check=True, timeout=300,
    )  # fmt: skip
    python = str(workplace / "venv" / "bin" / "python")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [python, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    imported = run("-c", SURFACES[extra])
    assert imported.returncode == 0, imported.stderr[-2000:]
    looked_for = "from importlib.util import find_spec\nimport sys\nprint(*filter(find_spec, sys.argv[1:]))"
    found = run("-c", looked_for, *ABSENT.get(extra, ()))
    assert (found.returncode, found.stdout.split()) == (0, []), f"{extra} brings too much"
    assert run("-m", "forecache.cli.main", "--help").returncode == 0


def test_a_library_that_is_missing_is_named_with_the_extra_that_has_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "FORECACHE_HOME": str(tmp_path / "home")}
    (tmp_path / "duckdb.py").write_text("raise ModuleNotFoundError('No module named duckdb', name='duckdb')")
    done = subprocess.run(
        [sys.executable, "-m", "forecache.cli.main", "query", "select 1"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7
    assert "duckdb is not installed here" in done.stderr
    assert "pip install 'forecache[lake]'" in done.stderr


def test_every_library_of_an_extra_is_known_by_it() -> None:
    modules = {"delta-spark": "delta", "psycopg2-binary": "psycopg2", "scikit-learn": "sklearn"}
    for extra, requirements in EXTRAS.items():
        for requirement in requirements:
            distribution = re.split(r"[\[<>=]", requirement)[0].removesuffix("-skinny")
            module = modules.get(distribution, distribution.replace("-", "_"))
            if distribution != "forecache":
                assert any(distribution in other for other in EXTRAS[EXTRA_OF[module]]), f"{distribution} of {extra}"
