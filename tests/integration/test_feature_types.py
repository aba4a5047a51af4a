"""Features of every type from landing to predictions: a torch network and LightGBM over one feature view."""

import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typed_project.pipelines.typed import LARGE, VIEW, VISITS, network_typed, trees_typed

from forecache.base.errors import InputError
from forecache.base.settings import Settings, load_settings
from forecache.declare import FeatureView, Pipeline
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.lake.features import build_features, build_view, view_frame
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ledger import last_records
from forecache.lake.training_set import build_training_set
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.inference.encoding import ENCODING, read_encoding
from forecache.models.inference.kernel import load_kernel
from forecache.models.registry.model_versions import champion
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.tracking.artifacts import download_artifact
from forecache.models.training.launch import learn_vocabularies, train
from forecache.plugins.drift.measurements import measurements
from forecache.plugins.drift.monitor import monitor
from forecache.scoring.run import score

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow
LAST = date(2026, 1, 9)
SHOPS = ("north", "south", "", "east")
NOTES = ("blue Blue chair", "", "a table", "sofa, blue")


def land(settings: Settings, day: date, *, shops: tuple[str, ...] = SHOPS, customers: int = 80) -> None:
    folder = Path(settings.landing_uri) / VISITS.name
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["customer,day,amount,shop,note"]
    for i in range(customers):
        shop = shops[i % len(shops)]
        lines.append(f'c{i:03},{day},{(i % 7) + 10 * (shop == "north")},{shop},"{NOTES[(i // 4) % 4]}"')
    (folder / f"{day}.csv").write_text("\n".join([*lines, ""]))


@pytest.fixture(scope="module")
def trained(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with the champions of both pipelines and their predictions for the last two days."""
    settings = load_settings(
        home=tmp_path_factory.mktemp("typed") / "home", project="typed_project", spark_master="local[2]"
    )
    for number in range(9):
        day = date(2026, 1, 1) + timedelta(days=number)
        # A shop that no training split has seen.
        land(settings, day, shops=("north", "south", "", "west") if day >= date(2026, 1, 8) else SHOPS)
    ingest(settings, VISITS)
    for pipeline in (network_typed, trees_typed):
        build_training_set(settings, pipeline, LAST)
        version = int(
            register_trained_model(settings, pipeline, train(settings, pipeline, LAST)).details["model_version"]
        )
        verdict = run_gate(settings, pipeline, version, actor="test")
        assert verdict.champion_after == version, verdict.reasons
        build_features(settings, pipeline, [LAST - timedelta(days=1), LAST])
        score(settings, pipeline, [LAST - timedelta(days=1), LAST])
    return settings


def rows_of(settings: Settings, table: str, night: date = LAST) -> list[dict[str, Any]]:
    delta = open_dataset(open_table(settings, table), partitions=[("as_of", "=", night.isoformat())])
    return sorted(delta.to_table().to_pylist(), key=lambda row: row["customer"])


def test_the_table_has_each_feature_in_its_type(trained: Settings) -> None:
    fields = {field.name: field.type for field in open_table(trained, VIEW.feature_table).schema().fields}
    assert str(fields["number"]) == 'PrimitiveType("long")'
    assert str(fields["shop"]) == 'PrimitiveType("string")'
    by_customer = {row["customer"]: row for row in rows_of(trained, VIEW.feature_table)}
    assert by_customer["c001"]["number"] == LARGE + 9
    assert by_customer["c000"]["number"] is None
    assert (by_customer["c000"]["shop"], by_customer["c002"]["shop"], by_customer["c003"]["shop"]) == (
        "north", None, "west"
    )  # fmt: skip
    assert sum(by_customer["c000"]["note"]) == 3
    assert max(by_customer["c000"]["note"]) >= 2  # "blue" and "Blue" are one word
    assert by_customer["c004"]["note"] is None
    assert by_customer["c001"]["shape"][1:] == [9.0, None]
    assert by_customer["c000"]["shape"] is not None


@pytest.mark.parametrize("pipeline", [network_typed, trees_typed], ids=lambda each: each.name)
def test_both_engines_and_incremental_scoring_give_the_same_bits(
    trained: Settings, spark: "SparkSession", pipeline: Pipeline, tmp_path: Path
) -> None:
    home = copy_of(trained, tmp_path / "home")
    table = pipeline.prediction_table
    by_spark = [(row["customer"], row["expected"]) for row in rows_of(home, table)]
    assert len(by_spark) == 80
    assert all(np.isfinite(value) for _, value in by_spark)
    score(home, pipeline, [LAST], engine="arrow", mode="full", rebuild=True)
    assert [(row["customer"], row["expected"]) for row in rows_of(home, table)] == by_spark
    # A late file changes some customers, a category and a vector among it.
    folder = Path(home.landing_uri) / VISITS.name
    late = f'c005,{LAST},500,south,"a stool"\nc006,{LAST},1,north,\n'
    (folder / f"{LAST}-late.csv").write_text(f"customer,day,amount,shop,note\n{late}")
    ingest(home, VISITS)
    build_features(home, pipeline, [LAST])
    score(home, pipeline, [LAST], engine="arrow", mode="incremental")
    details = last_records(home, "score", pipeline.name)[LAST].details
    assert (details["mode"], details["rescored"]) == ("incremental", 2)
    carried = [(row["customer"], row["expected"]) for row in rows_of(home, table)]
    assert carried != by_spark
    score(home, pipeline, [LAST], mode="full", rebuild=True)
    assert [(row["customer"], row["expected"]) for row in rows_of(home, table)] == carried


def copy_of(settings: Settings, folder: Path) -> Settings:
    shutil.copytree(settings.home_path, folder)
    return load_settings(home=folder, project="typed_project", spark_master="local[2]")


@pytest.mark.parametrize("pipeline", [network_typed, trees_typed], ids=lambda each: each.name)
def test_the_model_holds_the_categories_that_training_saw(trained: Settings, pipeline: Pipeline) -> None:
    version = champion(trained, pipeline)
    plan = plan_scoring(str(download_artifact(trained, artifact_uri=f"models:/{pipeline.name}/{version.version}")))
    encoding = read_encoding(plan.spec.options[ENCODING])
    shop = encoding.features[1]
    assert shop.categories == ("east", "north", "south")
    assert encoding.columns == (
        "amount",
        "shop",
        "number",
        *(f"note_{i}" for i in range(4)),
        "shape_0",
        "shape_1",
        "shape_2",
    )
    assert plan.spec.inputs == ("amount", "shop", "number", "note", "shape")


def test_whoever_loads_the_network_from_mlflow_gets_the_same_answers(trained: Settings) -> None:
    import mlflow.pyfunc
    import pandas as pd

    version = champion(trained, network_typed)
    folder = download_artifact(trained, artifact_uri=f"models:/network_typed/{version.version}")
    features = rows_of(trained, VIEW.feature_table)
    frame = pd.DataFrame(
        {
            "amount": np.array([row["amount"] for row in features], np.float32),
            "shop": [row["shop"] or "" for row in features],
            "number": np.array([np.nan if row["number"] is None else row["number"] for row in features], np.float64),
            **{f"note_{i}": column(features, "note", i) for i in range(4)},
            **{f"shape_{i}": column(features, "shape", i) for i in range(3)},
        }
    )
    found = mlflow.pyfunc.load_model(str(folder)).predict(frame)
    values = np.asarray(found["expected"] if isinstance(found, dict) else found, np.float32).reshape(-1)
    expected = [row["expected"] for row in rows_of(trained, network_typed.prediction_table)]
    assert values.tolist() == pytest.approx(expected, rel=1e-6)


def column(features: list[dict[str, Any]], name: str, i: int) -> Any:
    values = [row[name][i] if row[name] is not None else None for row in features]
    return np.array([np.nan if value is None else value for value in values], np.float32)


def test_a_struct_of_the_features_is_scored_by_the_kernel_of_the_registered_model(trained: Settings) -> None:
    import pyarrow as pa

    version = champion(trained, trees_typed)
    plan = plan_scoring(str(download_artifact(trained, artifact_uri=f"models:/trees_typed/{version.version}")))
    kernel = load_kernel(plan.spec, lambda: plan.payload, lambda: "")
    rows = open_table(trained, VIEW.feature_table).to_pyarrow_table(filters=[("as_of", "=", LAST)]).sort_by("customer")
    columns = [rows.column(name).combine_chunks() for name in plan.spec.inputs]
    struct = pa.StructArray.from_arrays(columns, names=list(plan.spec.inputs))
    expected = [row["expected"] for row in rows_of(trained, trees_typed.prediction_table)]
    assert kernel.run([struct])[0].tolist() == expected


def test_drift_goes_by_the_shares_of_categories(trained: Settings, spark: "SparkSession") -> None:
    monitor(trained, network_typed, [LAST])
    found = {row.name: row for row in measurements(trained, "network_typed", first=LAST) if row.kind == "feature"}
    assert set(found) == set(network_typed.feature_names)
    # A quarter of the customers moved from east to west.
    assert found["shop"].effect > 0.2
    assert found["note"].effect < 0.1


def test_a_vector_of_another_width_stops_the_night_and_nothing_is_written(
    trained: Settings, spark: "SparkSession", tmp_path: Path
) -> None:
    home, view = copy_of(trained, tmp_path / "home"), replaced("shape", size=2)
    version = open_table(home, VIEW.feature_table).version()
    with pytest.raises(
        InputError,
        match="^The vector 'shape' of 'of_all_types' has a row of 3 numbers, and is declared with size=2. Correct the",
    ):
        build_view(home, view, [LAST])
    assert open_table(home, VIEW.feature_table).version() == version


def test_a_function_that_embeds_into_another_shape_is_named(
    trained: Settings, spark: "SparkSession", tmp_path: Path
) -> None:
    def three_each(texts: list[str]) -> Any:
        return [[1.0, 2.0, 3.0]] * len(texts)

    home = copy_of(trained, tmp_path / "home")
    with pytest.raises(InputError, match="three_each of the text 'note' of 'of_all_types' returned numbers of shape"):
        build_view(home, replaced("note", embed=three_each), [LAST])
    build_view(home, replaced("note", embed=three_each, size=3), [LAST])
    notes = {row["customer"]: row["note"] for row in rows_of(home, VIEW.feature_table)}
    assert (notes["c000"], notes["c004"]) == ([1.0, 2.0, 3.0], None)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("amount", "category", "'amount' of 'of_all_types' is a double; it is declared as a category. Return a text"),
        ("shop", "number", "'shop' of 'of_all_types' is a string; features are numbers. Return a number from compute"),
        ("amount", "integer", "is a double; it is declared as an integer. Return a whole number from compute"),
    ],
)
def test_a_value_of_another_type_is_refused_before_anything_is_computed(
    trained: Settings, spark: "SparkSession", name: str, kind: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        view_frame(spark, trained, replaced(name, type=kind, log=False), [LAST])


def test_more_categories_than_allowed_are_refused_before_training(trained: Settings) -> None:
    pipeline = replace(trees_typed, features=replaced("shop", max_categories=2))
    version = open_table(trained, pipeline.training_table).version()
    with pytest.raises(
        InputError, match="category 'shop' of pipeline 'trees_typed' has more than the 2 that max_categ"
    ):
        learn_vocabularies(trained, pipeline, version=version)


def replaced(name: str, **changes: Any) -> FeatureView:
    columns = tuple(replace(each, **changes) if each.name == name else each for each in VIEW.features.columns)
    return replace(VIEW, features=replace(VIEW.features, columns=columns))
