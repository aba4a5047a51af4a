"""Views, windows and entities that cannot work are refused where they are declared, in one sentence."""

import dataclasses
from collections.abc import Callable
from datetime import date

import dagster as dg
import pytest
from joined_sample import FLOWS, OPENED, REGION, SALES, SHOP, WITH_REGION, people, shops

from forecache.base.errors import SettingsError
from forecache.base.settings import load_settings
from forecache.declare import (
    Baseline,
    Column,
    Entities,
    EstimatorModel,
    Feature,
    Features,
    FeatureView,
    Gate,
    Label,
    Pipeline,
    Source,
    Where,
    Window,
)
from forecache.declare.features.view import TILE_COLUMNS
from forecache.declare.project import Project
from forecache.kit.windows.states import EVENTS
from forecache.plugins.window_features.tasks import BUCKET, DAY
from jobs.definitions import build_definitions, features_of

TIMES = Source("times", (Column("shop", "string"), Column("at", "timestamp")), "at", start=date(2026, 1, 1))


def shop(*windows: Window, **changes: object) -> FeatureView:
    return dataclasses.replace(SHOP, windows=windows, **changes)  # type: ignore[arg-type]


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: shop(Window("x", "sum", 0, "amount")), r"Window 'x' has days=0\. Give 1 or more"),
    (lambda: shop(Window("x", "sum", 3)), r"column=None\. Name one; only \"count\" goes without"),
    (lambda: shop(Window("x", "median", 3, "amount")), r"aggregate='median'\. It is one of 'sum', 'count'"),  # type: ignore[arg-type]
    (
        lambda: shop(Window("x", "sum", 3, "price")),
        r"over the column 'price', which its source lacks\. Its columns are",
    ),
    (
        lambda: shop(Window("x", "sum", 3, "shop")),
        r"the sum of 'shop', which is a string\. It takes int, bigint or dou",
    ),
    (lambda: shop(Window("x", "distinct", 3, "amount")), r"the distinct of 'amount', which is a double\. It takes str"),
    (lambda: Where("amount", "in", 3), r"value=3\. It is a tuple of one value or more for \"in\""),
    (lambda: Where("amount", "~", 3), r"comparison='~'\. It is one of '=='"),  # type: ignore[arg-type]
    (
        lambda: shop(Window("x", "count", 3, where=(Where("amount", ">", "3"),))),
        r"compares 'amount', a double, with '3' in the window 'x'\. Give a value of the column's type",
    ),
    (
        lambda: FeatureView(
            "times", ("shop",), (TIMES,), windows=(Window("x", "count", 1, where=(Where("at", ">", 1),)),)
        ),
        r"compares 'at', a timestamp.*times are not compared",
    ),
    (lambda: shop(), r"has neither features nor windows\. Give one of the two"),
    (
        lambda: shop(Window("x", "count", 1), features=Features(columns=(Feature("people"),), compute=people)),
        r"has both features and windows",
    ),
    (lambda: shop(Window("x", "count", 1), active_days=0), r"active_days=0\. Give 1 or more"),
    (
        lambda: shop(Window("x", "count", 1), sources=(SALES, OPENED)),
        r"windows over sales, opened\. Give one source of ev",
    ),
    (lambda: shop(Window("x", "count", 1), Window("x", "count", 2)), "declares the feature 'x' twice"),
    (lambda: dataclasses.replace(REGION, active_days=3), r"active_days=3\. It is about windows"),
    (
        lambda: dataclasses.replace(WITH_REGION, entities=None, features=(REGION,)),
        r"another key than its features: it is shop, and region has region\. Declare `entities`",
    ),
    (
        lambda: dataclasses.replace(WITH_REGION, entities=Entities(shops, (OPENED,))),
        r"joins the view 'region' by 'region', which its entities do not have\. Return it .*columns=\('region',\)",
    ),
    (
        lambda: dataclasses.replace(
            WITH_REGION, features=(SHOP, dataclasses.replace(SHOP, name="again")), entities=None
        ),
        "declares the feature 'amount_2d' twice",
    ),
    (
        lambda: dataclasses.replace(WITH_REGION, features=(SHOP, SHOP), entities=None),
        "declares the feature view 'shop' tw",
    ),
    (lambda: dataclasses.replace(WITH_REGION, features=()), r"has no (key or no source|features)"),
    (
        lambda: dataclasses.replace(WITH_REGION, sources=(dataclasses.replace(FLOWS, end=date(2027, 1, 1)),)),
        r"Two different sources of pipeline 'takings' are named 'flows'",
    ),
    (lambda: Entities(shops, ()), "`Entities` has no source"),
]


@pytest.mark.parametrize(("declare", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_cannot_work_is_refused_where_it_is_declared(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        declare()


def test_windows_of_other_lengths_share_the_states_of_a_tile() -> None:
    view = shop(
        Window("a", "sum", 3, "amount"),
        Window("b", "mean", 30, "amount"),
        Window("c", "sum", 7, "amount", (Where("amount", ">", 1),)),
    )
    names = [measure.name for measure in view.measures]
    assert names[:2] == ["count_amount", "sum_amount"]
    assert len(names) == 3
    assert names[2].startswith("sum_amount_")
    longer = dataclasses.replace(view, windows=(*view.windows, Window("d", "sum", 90, "amount")))
    assert longer.tile_fingerprint == view.tile_fingerprint
    assert longer.fingerprint != view.fingerprint
    described = dataclasses.replace(view, windows=tuple(dataclasses.replace(w, description="x") for w in view.windows))
    assert described.fingerprint == view.fingerprint


def test_joined_pipeline_has_a_table_of_its_own_and_one_asset_beside_those_of_its_views() -> None:
    assert WITH_REGION.feature_table == "features_takings"
    assert WITH_REGION.feature_names == ("amount_2d", "people")
    assert [source.name for source in WITH_REGION.all_sources] == ["sales", "flows", "opened"]
    names = {asset.key.to_user_string() for asset in features_of(Project({"takings": WITH_REGION}, {}))}
    assert names == {"features_shop", "features_region", "features_takings"}
    alone = dataclasses.replace(WITH_REGION, features=SHOP, entities=None)
    assert alone.feature_table == "features_shop"


def test_night_of_a_joined_pipeline_runs_its_views_whose_dates_are_its_own() -> None:
    repository = build_definitions(load_settings(project="joined_project")).get_repository_def()
    repository.load_all_definitions()
    for job, tables in (("takings", {"shop", "region", "takings"}), ("alone", {"shop"})):
        selected = repository.get_job(f"{job}_nightly").asset_layer.executable_asset_keys
        assert {key.path[-1] for key in selected if key.path[-1].startswith("features_")} == {
            f"features_{table}" for table in tables
        }
    parents = repository.asset_graph.get(dg.AssetKey("features_takings")).parent_keys
    assert {key.path[-1] for key in parents} == {"features_shop", "features_region", "raw_opened"}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"days": 3}, {"features", "training_set"}),
        ({"aggregate": "max"}, {"features", "training_set"}),
        ({"where": (Where("amount", ">", 1),)}, {"features", "training_set"}),
        ({"log": True}, {"training"}),
        ({"description": "What it sold."}, set()),
    ],
    ids=["days", "aggregate", "where", "log", "description"],
)
def test_a_changed_window_makes_exactly_these_stages_stale(change: dict[str, object], stale: set[str]) -> None:
    view = shop(dataclasses.replace(SHOP.windows[0], **change))
    assert stages_stale_by(dataclasses.replace(TRAINED, features=(view, REGION))) == stale


def test_other_entities_make_features_and_training_set_stale() -> None:
    def opened(events: object) -> object:
        return shops(events)

    entities = dataclasses.replace(WITH_REGION.entities, compute=opened)
    assert stages_stale_by(dataclasses.replace(TRAINED, entities=entities)) == {"features", "training_set"}
    longest = dataclasses.replace(TRAINED, features=(dataclasses.replace(SHOP, active_days="ever"), REGION))
    assert stages_stale_by(longest) == {"features", "training_set"}


TRAINED = dataclasses.replace(
    WITH_REGION,
    label=Label("sold", "regression", 7, lambda entities, events: entities),
    model=EstimatorModel(lambda: None),
    gate=Gate("mae", {}, Baseline("amount_2d")),
)


def stages_stale_by(changed: Pipeline) -> set[str]:
    before, after = dataclasses.asdict(TRAINED.fingerprints), dataclasses.asdict(changed.fingerprints)
    return {stage for stage in before if before[stage] != after[stage]}


def test_key_that_is_called_like_a_column_of_tiles_is_refused() -> None:
    for name in TILE_COLUMNS:
        source = Source(
            "visits", (Column(name, "date"), Column("at", "date"), Column("n", "int")), "at", start=SALES.start
        )
        with pytest.raises(SettingsError, match=f"declares the column of the tiles '{name}' twice"):
            FeatureView("visits", (name,), (source,), windows=(Window("n_7d", "sum", 7, "n"),))
    assert set(TILE_COLUMNS) == {DAY, EVENTS, BUCKET}
