"""From a prediction table to answers: published, changed by a delta, rolled back, under a running reader."""

from datetime import datetime, timezone

import httpx
from reader_support import running_reader
from store_tables import NEXT_NIGHT, churn, predictions, write_night
from waiting import eventually

from forecache.base.settings import Settings
from forecache.serve.reader import Client
from forecache.serve.store import open_store, publish


def test_what_is_published_is_answered_and_what_left_is_gone(settings: Settings) -> None:
    pipeline = churn()
    first = {f"c{index:04d}": index / 2000 for index in range(2000)}
    write_night(settings, predictions(first))
    publish(settings, pipeline)
    with running_reader(settings) as reader, Client(reader.url) as client:

        def scores() -> dict[str, float]:
            answers = client.get_many("churn", list(first))
            assert len({answer.store_version for answer in answers}) == 1
            return {answer.key: answer.value["churn_probability"] for answer in answers if answer.value}

        assert scores() == first
        second = first | {"c0007": 0.99, "c0042": 0.01}
        del second["c0013"]
        later = datetime(1998, 7, 2, 3, tzinfo=timezone.utc)
        write_night(
            settings,
            predictions(second, night=NEXT_NIGHT, scored_at=later, model_version=4),
            night=NEXT_NIGHT,
        )
        result = publish(settings, pipeline)
        assert result.details["kind"] == "incremental"
        assert eventually(lambda: client.metadata("churn")["store_version"] == 2)
        assert scores() == second
        answer = client.get("churn", "c0007")
        assert answer is not None
        assert (answer.as_of, answer.model_version, answer.scored_at) == (NEXT_NIGHT, 4, later)
        assert answer.stale
        assert client.get("churn", "c0013") is None
        assert client.metadata("churn")["segments"] == 2
        assert httpx.get(f"{reader.url}/v1/churn/c0013").status_code == 404

        open_store(settings, "churn").rollback()
        assert eventually(lambda: client.metadata("churn")["store_version"] == 1)
        assert scores() == first
        assert [row["state"] for row in client.versions("churn")] == [["blocked"], ["serving", "current"]]
