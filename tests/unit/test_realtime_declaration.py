"""Declarations of real-time models: what is refused when they load, and what their fingerprints depend on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked_project import transforms
from asked_project.views import SALES, household, product

from forecache.base.errors import InputError, NotFoundError, SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.declare import (
    Baseline,
    Candidates,
    Default,
    DotProduct,
    EstimatorModel,
    Examples,
    Feature,
    FunctionModel,
    Gate,
    Lookup,
    OrderGiven,
    Precomputed,
    Realtime,
    RequestField,
    Stored,
    TorchModel,
    Training,
    load_pipeline,
    load_realtime,
)
from forecache.declare.loading import load_nightly, load_served, load_trainable, read_project
from forecache.models.registry.model_versions import champion
from forecache.plugins.doctor.checks import check_project


def examples_of(sources: Any, first: object, last: object) -> Any:
    return sources


def other_examples(sources: Any, first: object, last: object) -> Any:
    return {}


def of_dates(sources: Any, dates: object) -> Any:
    return {}


def network(num_features: int) -> Any:
    raise NotImplementedError


def build() -> Any:
    raise NotImplementedError


EXAMPLES = Examples((SALES,), examples_of, label="bought", kind="binary")
GATE = Gate(metric="roc_auc", floors={"roc_auc": 0.5}, baseline=Baseline("popularity"))


def search(**changed: Any) -> Realtime:
    declared: dict[str, Any] = {
        "name": "search",
        "request": (RequestField("household_id", "bigint"),),
        "candidates": Candidates((RequestField("product_id", "string"), RequestField("price", "double", default=1.0))),
        "lookups": (Lookup(household), Lookup(product)),
        "transform": transforms.ranked,
        "features": (Feature("spend"), Feature("popularity"), Feature("price_log")),
        "model": EstimatorModel(build),
        "examples": EXAMPLES,
        "gate": GATE,
        "fallbacks": (
            DotProduct(Stored("household", ("household_id",)), Stored("product", ("product_id",))),
            Precomputed(Stored("product", ("product_id",), "popularity")),
            OrderGiven(),
        ),
    }
    return Realtime(**{**declared, **changed})


def inner() -> Callable[..., Any]:
    def transform(rows: Any) -> Any:
        return rows

    return transform


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "Search"}, "The real-time model name 'Search' is not usable"),
        ({"request": (RequestField("product_id", "string"),)}, "declares the field 'product_id' twice"),
        ({"request": (RequestField("candidates", "string"),)}, "declares the field 'candidates' twice"),
        ({"request": (RequestField("position", "bigint"),)}, "the column of the examples 'position' twice"),
        ({"request": (RequestField("bought", "bigint"),)}, "the column of the examples 'bought' twice"),
        ({"features": (Feature("bought"),)}, "declares the feature 'bought' twice"),
        ({"features": ()}, "has features=()"),
        ({"features": (Feature("a", type="category"),)}, "has feature 'a'='category'. A transform returns float32"),
        ({"lookups": (Lookup(household), Lookup(household))}, "declares the look-up 'household' twice"),
        ({"lookups": (Lookup(replace(household, publish=None)),)}, "the view 'household', which is not published"),
        ({"request": ()}, "looks up the view 'household' by 'household_id', which is no field of its request"),
        (
            {"request": (RequestField("household_id", "string"),)},
            "by 'household_id', which is a string, and the view's 'household_id' is a bigint",
        ),
        ({"lookups": (Lookup(household, key=("price",)),)}, "by 'price', which is a double, and the view's"),
        ({"transform": lambda rows: rows}, "has transform=<function <lambda>"),
        ({"transform": inner()}, "A release packs it by its name"),
        ({"fallbacks": ()}, r"has fallbacks=\(\)"),
        ({"fallbacks": (Default(0.5),)}, "ranks candidates, and its last fallback is Default"),
        (
            {"fallbacks": (OrderGiven(), Precomputed(Stored("product", ("product_id",))))},
            "its last fallback is Precomputed",
        ),
        ({"fallbacks": (OrderGiven(), OrderGiven())}, "has OrderGiven before other fallbacks"),
        (
            {"fallbacks": (Precomputed(Stored("product", ("sku",))), OrderGiven())},
            "reads 'product' by 'sku', which is no",
        ),
        ({"candidates": None, "lookups": (), "fallbacks": (OrderGiven(),)}, "answers one value, and its last fallback"),
        ({"examples": None}, "trains a `EstimatorModel` and has no examples"),
        ({"gate": None}, "trains a `EstimatorModel` and has no gate"),
        ({"model": FunctionModel(transforms.suspicion)}, "declares 'examples', and its model, a `FunctionModel`"),
        (
            {
                "candidates": None,
                "lookups": (Lookup(household),),
                "fallbacks": (Default(0.0),),
                "examples": replace(EXAMPLES, kind="ranking"),
            },
            "learns a ranking and has no candidates to rank",
        ),
        ({"gate": Gate("roc_auc", {}, Baseline("age"))}, "has the baseline feature 'age', which it does not compute"),
        ({"deadline_ms": 0}, "has deadline_ms=0. Give more than 0"),
        ({"output": "the score"}, "has the column name 'the score'"),
        (
            {"output": "answered_by"},
            "has output='answered_by'. An answer has answered_by and rank and product_id beside it",
        ),
        (
            {"output": "product_id"},
            "has output='product_id'. An answer has answered_by and rank and product_id beside it",
        ),
        ({"transform": build}, r"has transform=build, which takes \(\) -> Any: .* It is called as build\(rows\)"),
        ({"model": EstimatorModel(of_dates)}, r"in its model, has build=of_dates.* It is called as of_dates\(\)"),
        ({"model": TorchModel(build)}, r"in its model, has build=build.* It is called as build\(num_features\)"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_loads(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        search(**changed)


def test_functions_are_refused_that_cannot_be_called_as_they_will_be() -> None:
    with pytest.raises(
        SettingsError, match=r"`Examples` has compute=of_dates.*called as of_dates\(rows, first, last\)"
    ):
        replace(EXAMPLES, compute=of_dates)
    with pytest.raises(SettingsError, match=r"`FunctionModel` has function=of_dates.*called as of_dates\(features\)"):
        FunctionModel(of_dates)


def test_a_model_that_is_not_trained_has_no_training() -> None:
    applied = {"model": FunctionModel(transforms.suspicion), "examples": None, "gate": None}
    assert not search(**applied).is_trained
    with pytest.raises(SettingsError, match="declares 'training'"):
        search(**applied, training=Training(seed=1))
    with pytest.raises(SettingsError, match="has runs='loop'. A function can hang"):
        search(**applied, runs="loop")


def test_it_is_trained_on_rows_of_requests() -> None:
    declared = search()
    assert declared.key == ("request_id", "position")
    assert declared.group_column == "request_id"
    assert declared.feature_names == tuple(feature.name for feature in declared.features)
    assert declared.training_table == "training_set_search"
    assert declared.feature_table == ""
    assert declared.trained_label.columns == ("bought",)
    assert [source.name for source in declared.all_sources] == ["sales"]
    assert declared.views == (household, product)
    assert (declared.start, declared.end) == (SALES.start, SALES.end)


def test_fingerprints_change_with_what_they_cover() -> None:
    declared = search()
    assert search().fingerprint == declared.fingerprint

    def changed(**changes: Any) -> tuple[bool, bool, bool]:
        other = search(**changes)
        return (
            other.fingerprints.features != declared.fingerprints.features,
            other.examples_fingerprint != declared.examples_fingerprint,
            other.answers_fingerprint != declared.answers_fingerprint,
        )

    assert changed() == (False, False, False)
    assert changed(fallbacks=(OrderGiven(),)) == (False, False, True)
    assert changed(deadline_ms=20.0) == (False, False, True)
    assert changed(examples=replace(EXAMPLES, compute=other_examples)) == (False, True, False)
    assert changed(examples=replace(EXAMPLES, test_days=7)) == (False, True, False)
    assert changed(transform=transforms.paid) == (True, True, True)
    wider = replace(household, windows=(*household.windows[:1], replace(household.windows[1], days=14)))
    assert changed(lookups=(Lookup(wider), Lookup(product))) == (True, True, True)
    assert changed(gate=replace(GATE, max_latency_ms=1.0)) == (False, False, False)
    assert changed(owner="other@example.com") == (False, False, False)


@pytest.fixture
def project(settings: Settings) -> Settings:
    return load_settings(home=settings.home, project="asked_project")


def test_it_is_found_in_its_project_with_its_views(project: Settings) -> None:
    found = read_project(project)
    assert not found.broken
    assert list(found.realtime) == ["payments", "search"]
    assert list(found.views) == ["household", "product"]
    assert load_realtime(project, "payments").output == "suspicion"
    assert load_trainable(project, "payments") is load_realtime(project, "payments")
    with pytest.raises(InputError, match="'payments' is a real-time model: .* no as-of date of it is scored"):
        load_pipeline(project, "payments")
    with pytest.raises(NotFoundError, match="no real-time model 'payment'. Did you mean 'payments'"):
        load_realtime(project, "payment")
    with pytest.raises(InputError, match="'payments' is a real-time model.*POST /v1/payments"):
        load_served(project, "payments")
    with pytest.raises(
        NotFoundError, match="or real-time model 'none'. Those in asked_project: household, product, payments, search"
    ):
        load_nightly(project, "none")
    assert check_project(project).found == "household, product, payments, search in asked_project"


def write_project(folder: Path, **modules: str) -> None:
    pipelines = folder / "conflicted" / "pipelines"
    pipelines.mkdir(parents=True)
    (folder / "conflicted" / "__init__.py").touch()
    (pipelines / "__init__.py").touch()
    head = "from dataclasses import replace\nfrom asked_project.pipelines.payments import payments as declared\n"
    for name, text in modules.items():
        (pipelines / f"{name}.py").write_text(
            head + "".join(f"{line}\n" for line in text.split("; ")) + "del declared\n"
        )


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ({"one": "a = replace(declared, deadline_ms=9.0)", "two": "a = declared"}, "Two pipelines are named 'paym"),
        ({"one": "a = replace(declared, name='household')"}, "Two pipelines or published views are named 'household'"),
        *[
            ({"one": f"from forecache.declare import *; a = replace(declared, fallbacks=({it}, Default(1.0)))"}, told)
            for it, told in [
                ("Precomputed(Stored('none', ('amount',)))", "reads the store 'none', which nothing publishes"),
                ("Precomputed(Stored('household', ('household_id',)))", "reads 2 numbers of 'household' as one score"),
                ("Precomputed(Stored('household', ('household_id',), 'age'))", "reads 'age' of 'household'"),
                (
                    "Precomputed(Stored('household', ('amount',), 'spend_28d'))",
                    "reads 'household' by 'amount', which is a double, and the 'household_id' of its key is a bigint",
                ),
                (
                    "Precomputed(Stored('household', ('household_id', 'amount'), 'spend_28d'))",
                    "reads 'household' by household_id, amount, and its key is household_id",
                ),
                (
                    "DotProduct(Stored('household', ('household_id',)), Stored('household', ('household_id',), "
                    "'spend_28d'))",
                    "multiplies 2 numbers of 'household' with 1 of 'household'",
                ),
            ]
        ],
    ],
)  # fmt: skip
def test_names_and_stores_that_do_not_fit_break_their_modules(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: dict[str, str], told: str
) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("conflicted")]:
        monkeypatch.delitem(sys.modules, name)
    write_project(tmp_path, **modules)
    monkeypatch.syspath_prepend(tmp_path)
    found = read_project(load_settings(home=settings.home, project="conflicted"))
    assert found.broken
    assert all(told in str(error) for error in found.broken.values())


@pytest.mark.parametrize(
    "changed",
    [
        {"gate": Gate("roc_auc", {})},
        {"gate": Gate("roc_auc", {}, Baseline("age"))},
        {"gate": Gate("rmse", {}, Baseline("popularity"))},
        {"gate": replace(GATE, slices=("age",))},
        {"examples": replace(EXAMPLES, kind="ranking"), "gate": Gate("ndcg@10", {}, max_ece=0.1)},
        {"examples": replace(EXAMPLES, kind="ranking"), "gate": Gate("ndcg@10", {}), "model": TorchModel(network)},
    ],
)
def test_errors_of_label_and_gate_name_what_was_declared(changed: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        search(**changed)
    assert refused.value.message.startswith("Realtime 'search'")
    assert "ipeline" not in str(refused.value)


def test_later_errors_name_what_was_declared(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecache.models.registry.model_versions.list_models", lambda *_: [])
    applied = search(model=FunctionModel(transforms.suspicion), examples=None, gate=None)
    with pytest.raises(InputError, match="The model of real-time model 'search' is a `FunctionModel`"):
        _ = applied.trained_label
    with pytest.raises(NotFoundError, match="^Realtime 'search' has no champion yet"):
        champion(settings, search())
