"""Tables, scores and explanations by name in Python, and a project's parts on small frames, beside a nightly run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from windowed_project.pipelines.spend import CUSTOMER, HABITS, spend

import forecache as fc
from forecache import testing
from forecache.base.errors import DamagedError, InputError, NotFoundError
from forecache.base.settings import PROJECT_ROOT, Settings, load_settings
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.tables import open_table, table_version
from forecache.models.registry.gate.verdicts import load_verdict
from forecache.models.registry.model_versions import verified_folder
from forecache.runs import run_night
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import encode_key, open_store

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parent.parent / "support"
DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(20)]
BEFORE, LAST = DAYS[-2:]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The last two as-of dates of a project of windows, SQL and LightGBM, without Spark."""
    settings = load_settings(home=tmp_path_factory.mktemp("notebook") / "home", project="windowed_project")
    rng, folder = Random(1), Path(settings.landing_uri) / "sales"
    folder.mkdir(parents=True)
    for day in DAYS:
        rows = [f"{customer},{day},{rng.randint(1, 400) / 4}" for customer in range(60) if rng.random() < 0.8]
        (folder / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(SUPPORT))
        run_night(settings, BEFORE)
        run_night(settings, LAST)
        yield settings


@pytest.fixture(scope="module")
def sales(ran: Settings) -> pa.Table:
    """All rows of the source, of all days."""
    return fc.sql("select customer, day, amount from raw_sales", settings=ran).to_arrow()


def sort(rows: Any, *names: str) -> list[dict[str, Any]]:
    table = pa.table(rows)
    return table.select(list(names)).sort_by([(name, "ascending") for name in names]).to_pylist()


def test_predictions_are_those_of_the_newest_date_at_the_version_that_the_frame_names(ran: Settings) -> None:
    found = fc.predictions("spend", settings=ran)
    assert (found.table, found.version, found.date) == (
        "predictions_spend", table_version(ran, "predictions_spend"), LAST,
    )  # fmt: skip
    stored = open_table(ran, "predictions_spend").to_pyarrow_table(filters=[("as_of", "=", LAST)])
    assert sort(found, "customer", "next_spend", "model_version") == sort(
        stored, "customer", "next_spend", "model_version"
    )
    before = fc.predictions("spend", date=BEFORE.isoformat(), settings=ran)
    assert before.date == BEFORE
    assert set(before.to_arrow()["as_of"].to_pylist()) == {BEFORE}


def test_the_files_of_other_dates_are_not_read(ran: Settings) -> None:
    files = group_by_partition(active_files(open_table(ran, "predictions_spend")), "as_of")[BEFORE.isoformat()]
    paths = [Path(ran.table_uri("predictions_spend")) / file.path for file in files]
    for path in paths:
        path.rename(path.with_suffix(".away"))
    try:
        assert len(fc.predictions("spend", settings=ran)) > 50
        with pytest.raises(DamagedError, match="is missing or damaged"):
            fc.predictions("spend", date=BEFORE, settings=ran)
    finally:
        for path in paths:
            path.with_suffix(".away").rename(path)


def test_features_of_a_view_and_of_a_pipeline_and_the_training_set_are_read_by_name(ran: Settings) -> None:
    of_view = fc.features("customer", settings=ran)
    assert of_view.columns == ["customer", "as_of", "spent_1d", "spent_3d", "spent_7d"]
    joined = fc.features("spend", date=BEFORE, settings=ran)
    assert joined.columns == ["customer", "as_of", *spend.feature_names]
    assert (joined.table, joined.date) == ("features_spend", BEFORE)
    table, version = fc.model("spend", settings=ran).training_table
    training = fc.training_set("spend", version=version, settings=ran)
    assert (training.table, training.version) == (table, version)
    assert {"customer", "as_of", "next", "split", *spend.feature_names} == set(training.columns)


def test_the_model_is_the_champion_and_shows_its_gate(ran: Settings) -> None:
    champion = fc.model("spend", settings=ran)
    assert "champion" in champion.aliases
    shown = champion._repr_html_()
    assert "Model spend" in shown
    assert "training_set_spend at version" in shown
    assert "passed" in shown


@pytest.mark.parametrize("kind", ["frame", "pandas", "arrow", "dicts"])
def test_a_plain_frame_gets_the_scores_of_the_nightly_run_to_the_bit(ran: Settings, kind: str) -> None:
    features = fc.features("spend", settings=ran)
    rows = {
        "frame": lambda: features,
        "pandas": features.to_pandas,
        "arrow": features.to_arrow,
        "dicts": lambda: features.to_arrow().to_pylist(),
    }[kind]()
    scored = fc.score("spend", rows, settings=ran)
    assert type(scored) is type(rows)
    given = pa.Table.from_pylist(scored) if kind == "dicts" else pa.table(scored)
    expected = fc.predictions("spend", settings=ran)
    assert sort(given, "customer", "next_spend") == sort(expected, "customer", "next_spend")
    assert set(given.column_names) >= {*features.columns, "next_spend"}


def test_an_applied_model_scores_a_frame_too_with_its_segments(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="outputs_project")
    rows = pa.table({"who": ["u1", "u2"], "a": [1.0, -3.0], "b": [2.0, None]})
    scored = fc.score("every", rows, settings=settings)
    assert scored.column_names[:5] == ["who", "a", "b", "score", "other"]
    assert scored.select(["score", "best", "likes", "band"]).to_pylist() == [
        {"score": 3.0, "best": "right", "likes": False, "band": "above"},
        {"score": -3.0, "best": "right", "likes": False, "band": "below"},
    ]
    assert fc.model("every", settings=settings).uri.startswith("function ")


def test_an_answer_is_explained_by_name_and_key(ran: Settings) -> None:
    key = fc.predictions("spend", settings=ran).to_arrow()["customer"][0].as_py()
    found = fc.explain("spend", key, settings=ran)
    assert found["answer"]["key"] == str(key)
    assert found["prediction"]["row"]["customer"] == key
    assert {"store", "features", "raw", "model"} <= set(found)
    assert "store: version" in repr(found)
    assert f"prediction: row: customer {key}, as_of {LAST}, next_spend " in repr(found)
    assert "features_spend" in found._repr_html_()


def test_what_is_not_there_is_named_with_a_remedy(ran: Settings, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"'spent'.* Did you mean 'spend'\?"):
        fc.predictions("spent", settings=ran)
    with pytest.raises(NotFoundError, match=r"'costumer'.* Did you mean"):
        fc.features("costumer", settings=ran)
    with pytest.raises(NotFoundError, match=r"'spent'.* Did you mean 'spend'\?"):
        fc.model("spent", settings=ran)
    with pytest.raises(
        NotFoundError,
        match=f"no predictions of 'spend' for 2026-01-03. There are 2 dates, from {BEFORE} to {LAST}. "
        "`forecache run spend --date 2026-01-03` makes them.",
    ):
        fc.predictions("spend", date=date(2026, 1, 3), settings=ran)
    with pytest.raises(InputError, match="'tomorrow' is no date"):
        fc.predictions("spend", date="tomorrow", settings=ran)
    with pytest.raises(InputError, match="no column 'spent_1d', which pipeline 'spend' needs. They have customer."):
        fc.score("spend", [{"customer": 1}], settings=ran)
    empty = load_settings(home=tmp_path / "home", project="windowed_project")
    with pytest.raises(NotFoundError, match="no predictions of 'spend' yet. `forecache run spend` makes them."):
        fc.predictions("spend", settings=empty)
    with pytest.raises(NotFoundError, match=r"has no champion yet. Run `forecache train spend`"):
        fc.score("spend", fc.features("spend", settings=ran), settings=empty)
    with pytest.raises(NotFoundError, match="has no training set yet. `forecache train spend` builds it."):
        fc.training_set("spend", settings=empty)


def test_the_environment_gives_the_settings(ran: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(ran.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "windowed_project")
    assert fc.sql("select count(*) as n from predictions_spend").to_arrow()["n"][0].as_py() > 100
    assert fc.predictions("spend").date == LAST


def test_features_of_given_rows_are_those_of_the_nightly_run(ran: Settings, sales: pa.Table) -> None:
    for day in (BEFORE, LAST):
        found = testing.features(spend, {"sales": sales}, date=day)
        expected = fc.features("spend", date=day, settings=ran)
        assert found.to_arrow().equals(expected.to_arrow().sort_by("customer"))
    for view in (CUSTOMER, HABITS):
        found = testing.features(view, {"sales": sales.to_pandas()}, date=LAST)
        assert found.to_arrow().equals(fc.features(view.name, settings=ran).to_arrow().sort_by("customer"))


def test_labels_of_given_rows_are_those_of_the_training_set(ran: Settings, sales: pa.Table) -> None:
    training = fc.training_set("spend", settings=ran).to_arrow()
    days = sorted(set(training["as_of"].to_pylist()))
    for day in (days[0], days[-1]):
        found = testing.labels(spend, {"sales": sales}, date=day)
        assert found.columns == ["customer", "as_of", "next"]
        expected = training.filter(pc.equal(training["as_of"], pa.scalar(day)))
        assert sort(found, "customer", "next") == sort(expected, "customer", "next")


def test_the_gate_judges_given_scores_as_it_judged_the_model(ran: Settings) -> None:
    champion = fc.model("spend", settings=ran)
    verdict = load_verdict(champion)
    assert verdict is not None
    _, version = champion.training_table
    training = fc.training_set("spend", version=version, settings=ran).to_arrow()
    test = training.filter(pc.equal(training["split"], "test")).sort_by("customer")
    scored = fc.score("spend", test, settings=ran)
    found = testing.gate(spend, scored["next_spend"], test["next"], baseline=test["spent_7d"])
    assert found.metrics == pytest.approx(verdict.metrics)
    assert found.baseline == pytest.approx(verdict.baseline)
    named = {check.name: check for check in verdict.checks}
    assert {check.name for check in found.checks} >= {"floor:mae", "baseline"}
    for check in found.checks:
        assert (check.passed, check.reason) == (named[check.name].passed, named[check.name].reason)
    assert "baseline" in found._repr_html_()
    failed = testing.gate(spend, [9e6] * len(test), test["next"], baseline=test["spent_7d"])
    assert not failed.passed
    assert "mae" in failed.line


def test_answers_to_given_features_are_those_of_the_server(ran: Settings) -> None:
    import lightgbm

    folder = verified_folder(ran, fc.model("spend", settings=ran))
    booster = lightgbm.Booster(model_file=next(folder.rglob("*.lgb")))
    features = fc.features("spend", settings=ran)
    found = testing.answers(spend, features, booster, date=LAST)
    with open_store(ran, "spend").snapshot() as snapshot:
        served = VersionAnswers(snapshot)
        keys = features.to_arrow()["customer"].to_pylist()
        expected = [orjson.loads(served.one(encode_key(snapshot.manifest.key, key)) or b"") for key in keys]
    assert [(answer["key"], answer["value"], answer["as_of"]) for answer in found] == [
        (answer["key"], answer["value"], answer["as_of"]) for answer in expected
    ]
    assert set(found[0]) == set(expected[0])


def test_a_function_stands_in_for_the_model_and_is_clipped_as_a_trained_one() -> None:
    rows = [{"customer": 7, "spent_1d": 1.0, "spent_3d": 2.0, "spent_7d": 4.0, "purchases": 1, "most": 2e9}]
    twice = testing.answers(spend, rows, lambda features: 2 * features["spent_7d"])
    assert twice[0]["value"] == {"next_spend": 8.0}
    clipped = testing.answers(spend, rows, lambda features: features["most"])
    assert clipped[0]["value"] == {"next_spend": 1e6}
    with pytest.raises(InputError, match="The model of pipeline 'spend' is a `EstimatorModel`, which is not here."):
        testing.answers(spend, rows)


def test_rows_that_would_be_quarantined_or_do_not_fit_are_refused() -> None:
    sale = {"customer": 7, "day": LAST, "amount": 1.0}
    with pytest.raises(InputError, match="1 of 2 rows of source 'sales' would be quarantined; the first, .*-1"):
        testing.features(spend, {"sales": [sale, {**sale, "amount": -1.0}]}, date=LAST)
    with pytest.raises(InputError, match=r"source 'sales' has no column 'amuont'. Did you mean 'amount'\?"):
        testing.features(spend, {"sales": [{**sale, "amuont": 1.0}]}, date=LAST)
    with pytest.raises(InputError, match=r"has no source 'sale'. Did you mean 'sales'\?"):
        testing.features(spend, {"sale": [sale]}, date=LAST)
    with pytest.raises(InputError, match="The column 'customer' of source 'sales' is given as string"):
        testing.features(spend, {"sales": [{**sale, "customer": "ann"}]}, date=LAST)
    with pytest.raises(InputError, match="2026-02-03 lies outside"):
        testing.features(spend, {"sales": [sale]}, date="2026-02-03")
    with pytest.raises(InputError, match="Rows of source 'sales' would be quarantined: .*Its days go from 2026-01-01"):
        testing.features(spend, {"sales": [{**sale, "day": date(2025, 1, 1)}]}, date=LAST)


def test_no_lake_of_the_environment_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "LAKE", "LANDING", "STORE"):
        monkeypatch.setenv(f"FORECACHE_{name}", str(tmp_path / name))
    sale = {"customer": 7, "day": LAST, "amount": 1.5}
    found = testing.features(spend, {"sales": [sale]}, date=LAST)
    assert found.to_arrow().to_pylist() == [
        {"customer": 7, "as_of": LAST, "spent_1d": 1.5, "spent_3d": 1.5, "spent_7d": 1.5, "purchases": 1.0, "most": 1.5}
    ]
    assert [*tmp_path.iterdir()] == []


def test_the_notebook_of_the_pages_runs_in_a_new_project(tmp_path: Path) -> None:
    page = tmp_path / "notebook.md"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    command = [sys.executable, str(PROJECT_ROOT / "scripts" / "notebook.py"), str(page)]
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    text = page.read_text()
    told = (
        "('predictions_returns', 0, datetime.date(",
        "Pipeline returns</caption>",
        "Model returns 1</caption>",
        "[('ann', {'return_probability': 0.20000000298023224}), ('bob', {'return_probability': 0.10000000149011612})]",
        "returns 0 passed: roc_auc 1.0000",
    )
    assert [each for each in told if each not in text] == []
