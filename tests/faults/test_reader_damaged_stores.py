"""The reader's store is damaged, or away for a moment."""

import httpx
import pytest
from faulty_reader import metric, status
from reader_support import churn_rows, running_reader, write_version
from waiting import eventually

from forecache.base.settings import Settings
from forecache.kit.versioned.pointer import read_pointer, write_pointer
from forecache.serve.store import Store


@pytest.fixture
def store(settings: Settings) -> Settings:
    write_version(settings.store_path, "churn", churn_rows(100))
    return settings


def test_a_damaged_version_leaves_the_old_one_served(store: Settings) -> None:
    with running_reader(store) as reader:
        layout = Store(store.store_path / "churn").layout
        write_version(store.store_path, "spend", churn_rows(3))
        assert eventually(lambda: status(reader, "/v1/spend/00001") == 200)
        layout.manifest(2).write_text("{ not a manifest")
        layout.lease(2).touch()
        write_pointer(layout, read_pointer(layout).advance(current=2, last=2))

        def failures() -> bool:
            return 'swap_failures_total{pipeline="churn"} 0' not in httpx.get(f"{reader.url}/metrics").text

        assert eventually(failures)
        assert httpx.get(f"{reader.url}/v1/churn/00001").json()["store_version"] == 1
        assert status(reader, "/v1/spend/00001") == 200
        layout.manifest(2).unlink()
        assert write_version(store.store_path, "churn", churn_rows(100)) == 3
        assert eventually(lambda: httpx.get(f"{reader.url}/v1/churn").json()["store_version"] == 3)


def test_a_store_that_is_damaged_at_the_start_keeps_the_reader_unready_until_it_heals(store: Settings) -> None:
    layout = Store(store.store_path / "churn").layout
    good = layout.manifest(1).read_bytes()
    layout.manifest(1).write_text("{}")
    write_version(store.store_path, "spend", churn_rows(3))
    with running_reader(store, wait=False) as reader:
        assert eventually(lambda: status(reader, "/v1/spend/00001") == 200)
        answer = httpx.get(f"{reader.url}/v1/churn/00001")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:forecache:problem:not-readable")
        assert eventually(lambda: "churn is damaged" in httpx.get(f"{reader.url}/readyz").json().get("detail", ""))
        assert status(reader, "/readyz") == 503
        layout.manifest(1).write_bytes(good)
        assert eventually(lambda: status(reader) == 200)
        assert eventually(lambda: status(reader, "/readyz") == 200)


def test_a_store_that_blinks_away_is_served_on_and_followed_again(store: Settings) -> None:
    with running_reader(store) as reader:
        away = store.store_path.with_name("elsewhere")
        store.store_path.rename(away)
        assert eventually(lambda: metric(reader, 'swap_failures_total{pipeline="churn"}') > 0)
        assert [status(reader), status(reader, "/readyz")] == [200, 200]
        away.rename(store.store_path)
        write_version(store.store_path, "churn", churn_rows(100))
        assert eventually(lambda: httpx.get(f"{reader.url}/v1/churn").json()["store_version"] == 2)
