"""What importing each surface costs: the command line and the reader stay light."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

from forecache.base.settings import PROJECT_ROOT

HEAVY = ("dagster", "pyspark", "torch", "mlflow", "great_expectations", "pandas", "pyarrow", "matplotlib", "sklearn")
FORECACHE = Path(sys.executable).with_name("forecache")


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter that runs `statement`."""
    program = f"{statement}\nimport sys\nprint('\\n@', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("@")[2].split())


def test_help_loads_no_heavy_library() -> None:
    loaded = modules_after("from forecache.cli.main import main\nassert main(['--help']) == 0")
    assert not loaded & {*HEAVY, "rich", "pydantic", "numpy"}


def test_help_takes_three_tenths_of_a_second_of_cpu_time() -> None:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([FORECACHE, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < 0.3


def test_reader_loads_no_heavy_library() -> None:
    loaded = modules_after(
        "from forecache.serve.reader import AsyncClient, Client, serve\nimport forecache.serve.reader.http.app"
    )
    assert not loaded & set(HEAVY)


def test_engine_loads_no_heavy_library_with_its_declarations() -> None:
    loaded = modules_after(
        "from forecache.base.settings import load_settings\n"
        "from forecache.declare import load_pipelines\n"
        "assert load_pipelines(load_settings())"
    )
    assert not loaded & set(HEAVY)


def test_a_saved_scikit_learn_estimator_is_loaded_without_torch() -> None:
    loaded = modules_after(
        "from sklearn.linear_model import Ridge\n"
        "from forecache.plugins.estimators.skops_files import load_skops, skops_io\n"
        "estimator = load_skops(skops_io().dumps(Ridge().fit([[0.0], [1.0]], [0.0, 1.0])))\n"
        "assert estimator.coef_[0] > 0\n"
        "import sklearn.externals.array_api_compat\n"
    )
    assert "sklearn" in loaded
    assert "torch" not in loaded


def test_training_and_registry_take_every_declaration_with_a_model() -> None:
    folders = [PROJECT_ROOT / "forecache" / "models" / name for name in ("training", "registry", "tracking")]
    assert all(map(Path.is_dir, folders))
    for file in (file for folder in folders for file in folder.rglob("*.py")):
        names = {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
        assert not names & {"Pipeline", "Realtime"}, file
