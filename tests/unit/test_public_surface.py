"""The public modules and their exact names; pages, examples, template and shipped project import nothing else."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import forecache
from forecache import declare as pipeline
from forecache.base.settings import PROJECT_ROOT

PUBLIC = {
    "forecache": """
        Alert Als Answer AnyOutput AnySource AsyncClient AS_OF Avro Baseline Boolean Candidates Catalogue CheckError
        Classes Client Column ColumnType ConflictError DamagedError Default DotProduct Drift Ease Effect
        EmbeddedCategories encode_columns encode_key Entities EntitySplit EstimatorModel Examples expect Expectation
        explain Factors Feature Features features features_of FeatureView FitRun Fitted ForecacheError Frame
        FunctionModel Gate Guards Habits historical_features InputError Json Label Labelled Live LiveRows
        load_pipeline load_pipelines load_realtime load_served load_settings load_stream Log Lookup Mailing Metric
        model NotEverywhereError NotFoundError notify NotYetError open_dataset open_store open_table OrderGiven
        order_of Outcome Output Pipeline PipelinesFailedError Popularity Precomputed predictions prediction_drift
        Project PROVENANCE_COLUMNS Publish publish Quantiles Query query RankingGate read_encoding read_log
        read_project Realtime RealtimeAnswer Recommender RecommenderModel RegisteredModel RepeatPurchase RequestField
        Retraining Rollout Rows run_night Schedule score scores_of score_nights score_shadow scoring_udf Segment
        Served Settings SettingsError Snapshot Source SOURCE_COLUMNS sql SqlModel StageResult Static Store Stored
        Stream StreamDay Structs Subject Table TableSource Task Text Topic TorchModel ToTopic Trainable Training
        training_set TwoTowers UnavailableError UnreachableError Vector Where Window WithFallback __version__
    """,
    "forecache.testing": """
        ACCENT MUTED ReaderProcess SECOND StreamState answer answers features gate labels land_demo_data make_page
        read_state render_svg select_rows spark_session stop_spark transform write_page
    """,
}
PAGES = [PROJECT_ROOT / "README.md", PROJECT_ROOT / "CONTRIBUTING.md", *(PROJECT_ROOT / "docs").rglob("*.md")]
PROJECTS = ("examples", "dagster_project", "forecache/plugins/new_project/templates")
TEXTS = sorted([*PAGES, *(path for folder in PROJECTS for path in (PROJECT_ROOT / folder).rglob("*.[pm][yd]"))])


# Loading every name loads torch and Spark.
@pytest.mark.slow
@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_module_has_exactly_these_names_and_each_of_them_is_there(module: str) -> None:
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == sorted(PUBLIC[module].split())
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_each_error_is_public() -> None:
    classes = ast.parse((PROJECT_ROOT / "forecache/base/errors.py").read_text()).body
    assert {node.name for node in classes if isinstance(node, ast.ClassDef)} <= {*PUBLIC["forecache"].split()}


def test_the_package_gives_the_declarations_themselves_and_no_name_twice_in_a_module() -> None:
    assert {name for name in pipeline.__all__ if getattr(forecache, name) is not getattr(pipeline, name)} == set()
    for names in map(str.split, PUBLIC.values()):
        assert len(names) == len(set(names))


def test_an_unknown_name_is_an_attribute_error_of_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'forecache' has no attribute 'Pipelin'"):
        forecache.Pipelin  # noqa: B018


@pytest.mark.parametrize("module", ["forecache", "forecache.testing"])
def test_a_type_checker_knows_each_name_and_no_other(module: str) -> None:
    """The names that the module imports for type checkers are those of `__all__`."""
    source = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text())
    imported: list[str] = []
    for block in source.body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                assert isinstance(node, ast.ImportFrom)
                names = [alias.name for alias in node.names]
                imported += importlib.import_module(str(node.module)).__all__ if names == ["*"] else names
    assert sorted(imported) == sorted(PUBLIC[module].split())


def test_importing_the_package_loads_none_of_its_modules() -> None:
    program = "import sys, forecache; print([name for name in sys.modules if name.startswith('forecache.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_loads_without_the_lake() -> None:
    program = "import sys, forecache; forecache.Client; print({'pyarrow', 'deltalake', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_it_imports_public_names_only(path: Path) -> None:
    found = {name for code in python_of(path) for name in framework_imports(code)}
    private = {(module, name) for module, name in found if name not in PUBLIC.get(module, "").split()}
    assert {(module, name) for module, name in private if f"{module}.{name}" not in PUBLIC} == set()


def python_of(path: Path) -> list[str]:
    """A file's code; of a page the Python blocks, whatever their titles and indentation."""
    text = path.read_text()
    if path.suffix == ".py":
        return [text]
    return re.findall(r"^ *```(?:python|py)\b[^\n`]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


def framework_imports(code: str) -> Iterator[tuple[str, str]]:
    """Each imported name of Forecache with its module; an imported module has the name `*`, which is not public."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "forecache":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names if alias.name.partition(".")[0] == "forecache"]
            yield from ((module, "*") for module in modules if module not in PUBLIC)


def test_an_import_from_elsewhere_is_found_wherever_it_stands() -> None:
    inside = "  from forecache.lake.query import query\n  import forecache.serve.store.keys as keys"
    code = f"import forecache\ndef f():\n{inside}"
    assert {*framework_imports(code)} == {("forecache.lake.query", "query"), ("forecache.serve.store.keys", "*")}
    assert {*framework_imports("from forecache import pipeline")} == {("forecache", "pipeline")}
