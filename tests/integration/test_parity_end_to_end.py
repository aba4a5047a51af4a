"""Parity of what a real reader answered and logged, from the command line and from Dagster."""

import json
import threading
from datetime import datetime, timezone
from typing import Any

import dagster as dg
import httpx
import pytest
from asked_project.views import SALES, household, product
from deltalake import DeltaTable
from log_support import commit_all, logged
from logged_answers import LOOKUPS, Answering, publish_views, release, requests, write_log
from ranking_code import transforms
from reader_support import running_reader
from release_support import FEATURES
from waiting import eventually

from forecache.base.settings import Settings
from forecache.cli.main import main
from forecache.declare import (
    Baseline,
    Candidates,
    EstimatorModel,
    Examples,
    Feature,
    Gate,
    Log,
    Lookup,
    OrderGiven,
    Realtime,
    RequestField,
)
from forecache.declare.realtime.lookups import Precomputed, Stored
from forecache.plugins.parity.orchestration import EQUAL, build_parity, define_parity
from forecache.plugins.parity.replay import replay_day
from forecache.serve.store import open_store
from resources.settings_resource import SettingsResource

POPULAR = Precomputed(Stored("product", ("product_id",), "popularity"))
LOG = Log("household_id")


def _unused(*_: Any) -> Any:
    raise AssertionError("parity calls no function of a declaration")


declared = Realtime(
    name="ranking",
    request=(RequestField("household_id", "bigint"),),
    candidates=Candidates((RequestField("product_id", "string"), RequestField("price", "double", default=1.0))),
    lookups=(Lookup(household), Lookup(product)),
    transform=transforms.rank,
    features=tuple(map(Feature, FEATURES)),
    model=EstimatorModel(_unused),
    fallbacks=(OrderGiven(),),
    examples=Examples((SALES,), _unused, label="taken", kind="ranking"),
    gate=Gate("ndcg@5", {"ndcg@5": 0.3}, baseline=Baseline("spend")),
    log=LOG,
)


def asked(url: str, bodies: list[bytes]) -> int:
    """How many of the answers are the model's."""
    by_model = 0
    with httpx.Client(timeout=30) as http:
        for body in bodies:
            answer = http.post(f"{url}/v1/ranking", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 200, answer.text
            by_model += answer.json()["answered_by"] == "model"
    return by_model


def release_of(http: httpx.Client, url: str, body: bytes) -> int:
    """The release that answers a request."""
    answer = http.post(f"{url}/v1/ranking", content=body, headers={"content-type": "application/json"})
    return int(answer.json()["release"])


@pytest.mark.slow
def test_all_that_a_reader_answers_under_publishes_and_releases_is_equal(settings: Settings) -> None:
    """Versions are removed and releases swapped while it answers; late answers and other protocols are among them."""
    publish_views(settings)
    common: dict[str, Any] = {
        "lookups": LOOKUPS, "fallbacks": (POPULAR, OrderGiven()), "log": LOG, "deadline_ms": 60_000.0, "created_at": "",
        "warmup": requests(3),
    }  # fmt: skip
    release(settings, **common)
    bodies = requests(200)
    with running_reader(settings, request_log_delay_s=0.2, wait=False, reader_workers=2) as reader:
        reader.wait_until_ready()
        assert eventually(lambda: asked(reader.url, bodies[:1]) == 1)
        stop = threading.Event()

        def change() -> None:
            for number in range(1, 6):
                publish_views(settings, shift=float(number))
                if number == 3:
                    release(settings, runtime="lightgbm", version=2, **common)
                if stop.wait(0.3):
                    return

        changing = threading.Thread(target=change)
        changing.start()
        try:
            by_model = 0
            while changing.is_alive():
                by_model += asked(reader.url, bodies)
        finally:
            stop.set()
            changing.join()
        with httpx.Client(timeout=30) as http:
            # Of two workers the slower one, too.
            assert all(eventually(lambda: release_of(http, reader.url, bodies[0]) == 2) for _ in range(20))
            by_model += asked(reader.url, bodies)
            for number in range(20):  # no time for the model, or for anything
                http.post(
                    f"{reader.url}/v1/ranking", content=bodies[number],
                    headers={"content-type": "application/json", "x-deadline-ms": "0.05"},
                )  # fmt: skip
            request = json.loads(bodies[0])
            rows = [{"household_id": request["household_id"], **each} for each in request["candidates"]]
            told = http.post(f"{reader.url}/invocations?model=ranking", json={"dataframe_records": rows})
            assert told.status_code == 200, told.text
    commit_all(settings, "ranking")
    rows = logged(settings, "ranking")
    assert by_model > 200
    assert len({row["release"] for row in rows}) == 2
    assert 1 not in open_store(settings, "product").version_numbers()
    found = replay_day(settings, "ranking", datetime.now(timezone.utc).date()).found
    assert found.differ == 0, found.first[:3]
    # Of a version that the store has removed, the lake has the features; what fallbacks read there counts as left out.
    assert found.equal + sum(found.not_recomputed.values()) == found.requests == len(rows)
    assert found.equal >= by_model
    # A late answer of a slow machine may have read the request, and no view.
    assert set(found.not_recomputed) <= {"version", "release", "unread", "not logged"}
    assert not found.not_recomputed["release"]


def test_the_command_tells_and_ends_with_the_verdict(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    publish_views(settings)
    release(settings)
    answering = Answering(settings)
    rows = [answering.answer(body) for body in requests(5)]
    answering.close()
    write_log(settings, rows)
    assert main(["parity", "ranking", "--processes", "1"]) == 0
    assert "All 5 requests that were computed again are equal to the bit." in capsys.readouterr().out
    write_log(settings, [{**rows[0], "request_id": "turned", "scores": rows[1]["scores"]}])
    assert main(["parity", "ranking", "--date", "2026-03-02", "--json"]) == 6
    output, told = capsys.readouterr()
    assert json.loads(output)["first"][0]["request_id"] == "turned"
    assert "1 of 6 requests differ. Request turned of 2026-03-02T09:00:00.000000Z" in told
    assert main(["parity", "unknown"]) == 3


def test_the_asset_checks_a_day_and_shows_its_figures(settings: Settings) -> None:
    publish_views(settings)
    release(settings)
    answering = Answering(settings)
    rows = [answering.answer(body) for body in requests(5)]
    answering.close()
    write_log(settings, rows)
    resource = SettingsResource(home=str(settings.home_path), project=settings.project)

    def run() -> tuple[bool, dg.ExecuteInProcessResult]:
        result = dg.materialize(
            [build_parity(declared)],
            resources={"settings": resource},
            run_config={"ops": {"parity_ranking": {"config": {"day": "2026-03-02"}}}},
        )
        (check,) = result.get_asset_check_evaluations()
        assert check.check_name == EQUAL
        return check.passed, result

    passed, result = run()
    assert passed
    (made,) = result.asset_materializations_for_node("parity_ranking")
    assert made.metadata["equal"].value == 5
    assert "| spend | 40 | 0 |" in made.metadata["features"].value
    write_log(settings, [{**rows[0], "request_id": "turned", "scores": rows[1]["scores"]}])
    passed, result = run()
    assert not passed
    (made,) = result.asset_materializations_for_node("parity_ranking")
    assert "turned" in made.metadata["first_differences"].value
    table = DeltaTable(settings.table_uri("parity_ranking")).to_pyarrow_table().to_pylist()
    assert [row["compared"] for row in table if row["kind"] == "requests"] == [6]


def test_a_day_without_answers_is_told(settings: Settings) -> None:
    publish_views(settings)
    release(settings)
    answering = Answering(settings)
    write_log(settings, [answering.answer(requests(1)[0])])
    answering.close()
    report = replay_day(settings, "ranking", datetime(2026, 3, 9, tzinfo=timezone.utc).date(), processes=1)
    assert report.has_passed
    assert report.sentence == "Nothing was compared: no request of 2026-03-09 is in the log."


def test_a_model_with_a_log_has_a_job_and_a_schedule_of_its_own() -> None:
    defined = define_parity(declared)
    [job], [schedule] = defined.jobs or (), defined.schedules or ()
    assert (job.name, schedule.cron_schedule, schedule.execution_timezone) == (
        "ranking_parity", "30 0 * * *", "UTC",
    )  # fmt: skip
