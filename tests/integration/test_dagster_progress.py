"""Progress that a stage tells from another thread, as Spark's does, reaches Dagster's log while the stage runs."""

import threading

import dagster as dg
import pytest

from assets import stage as asset_stage
from assets.stage import RunStep
from forecache.base.results import Progress, StageResult
from forecache.base.settings import load_settings
from forecache.scoring.tasks.job import progress_of
from resources.session import RunSession, use_session


def test_shards_rows_per_second_and_time_left_are_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asset_stage, "_LOG_EVERY_S", 0.0)

    def work(*, run_id: str, progress: Progress) -> StageResult:
        def tell() -> None:
            for done in (1, 2, 3):
                progress(*progress_of((done, 4), (done * 100, 400), 1.0))

        teller = threading.Thread(target=tell)
        teller.start()
        teller.join()
        return StageResult("score", "demo", 400, 1.0, table="predictions_demo")

    @dg.asset
    def predictions(context: dg.AssetExecutionContext) -> None:
        RunStep(context, load_settings()).run_stage(work)

    heard: list[str] = []
    session = RunSession(load_settings(), lambda message, share: heard.append(message), lambda result: None)
    with dg.instance_for_test() as instance, use_session(session):
        result = dg.materialize([predictions], instance=instance)
        messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    told = [message for message in messages if " shards, " in message]
    assert len(heard) == 3
    assert [result.stage for result in session.results] == ["score"]
    assert told == [
        "scoring 400 rows: 1 of 4 shards, 100 rows/s, 3 s left (25%)",
        "scoring 400 rows: 2 of 4 shards, 200 rows/s, 1 s left (50%)",
        "scoring 400 rows: 3 of 4 shards, 300 rows/s, 0 s left (75%)",
    ]
