"""A reader without a version of a pipeline answers from the remote: what it serves, refuses and waits for."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from asked_project.pipelines.payments import payments
from live_support import LAYER, live_row, live_store
from reader_support import RunningReader, churn_rows, running_reader, write_version
from store_services import redis_server
from store_tables import OPEN_RULES, churn, predictions, scores, upsert, write_night
from waiting import eventually

from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.blocks import BLOCK_BYTES
from forecache.operations.release import release_model
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.replicas import pull_releases, push_releases
from forecache.serve.store import Store, open_store, publish, pull
from forecache.serve.store.live.layer import write_layer
from forecache.serve.store.live.writer import open_live_writer
from forecache.serve.store.push_pull import pull_layers


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A remote that is a folder; tests without a publish write a store right there."""
    folder = tmp_path / "remote"
    folder.mkdir()
    return folder


@pytest.fixture
def replica(tmp_path: Path, remote: Path) -> Settings:
    """The settings of a machine with an empty disk."""
    return load_settings(home=tmp_path / "replica", store_remote=str(remote))


def serving(replica: Settings, remote: Path, **more: Any) -> Any:
    return running_reader(replica, store_remote=str(remote), **more)


def ask(reader: RunningReader, key: str, pipeline: str = "churn") -> tuple[int, Any]:
    found = httpx.get(f"{reader.url}/v1/{pipeline}/{key}")
    return found.status_code, found.json().get("value", found.json().get("detail"))


def test_a_damaged_block_is_not_served_and_all_other_keys_are(replica: Settings, remote: Path) -> None:
    rows = churn_rows(20_000)
    write_version(remote, "churn", rows)
    [shard] = (remote / "churn" / "segments").glob("*/000.mdb")
    whole = shard.read_bytes()
    place = len(whole) // 3 // BLOCK_BYTES * BLOCK_BYTES + 700
    shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with serving(replica, remote) as reader, httpx.Client(base_url=reader.url) as client:
        answers = {key: client.get(f"/v1/churn/{key}") for key in list(rows)[::50]}
        refused = {key for key, found in answers.items() if found.status_code == 503}
        assert 0 < len(refused) < len(answers) / 10
        assert all(found.json()["value"] == rows[key] for key, found in answers.items() if key not in refused)
        assert client.get("/readyz").status_code == 200
        shard.write_bytes(whole)
        assert all(client.get(f"/v1/churn/{key}").json()["value"] == rows[key] for key in refused)


def test_the_newest_version_of_the_remote_is_followed_and_a_pulled_one_takes_over(
    settings: Settings, replica: Settings, remote: Path
) -> None:
    publisher, rows = settings.model_copy(update={"store_remote": str(remote)}), scores(300)
    write_night(publisher, predictions(rows))
    publish(publisher, churn())

    def has_all(reader: RunningReader) -> bool:
        found = httpx.post(f"{reader.url}/v1/churn", json={"keys": [*rows, "nobody"]}).json()["results"]
        return [row["value"]["churn_probability"] if row["found"] else None for row in found] == [*rows.values(), None]

    with serving(replica, remote) as reader:
        assert has_all(reader)
        rows |= {"00007": 0.125}
        upsert(publisher, predictions({"00007": 0.125}))
        publish(publisher, churn())
        assert eventually(lambda: has_all(reader))
        [version] = httpx.get(f"{reader.url}/versions/churn").json()["versions"]
        assert version["store_version"] == 2
        pull(open_store(replica, "churn"), LocalFolder(remote))
        shutil.rmtree(remote)
        assert eventually(lambda: has_all(reader))
        assert ask(reader, "nobody")[0] == 404


def test_a_version_in_redis_is_not_moved_to_the_remote(
    settings: Settings, replica: Settings, remote: Path, tmp_path: Path
) -> None:
    in_redis = churn(rules=replace(OPEN_RULES, backend="redis"))
    with redis_server(tmp_path / "redis") as port:
        url = f"redis://127.0.0.1:{port}"
        publisher = settings.model_copy(update={"store_remote": str(remote), "redis_url": url})
        write_night(publisher, predictions(scores(50)))
        publish(publisher, in_redis)
        write_version(remote, "spend", churn_rows(50))
        with serving(replica, remote, redis_url=url) as reader:
            # What the remote alone has is served from there, by the same look as what Redis has would be.
            assert eventually(lambda: ask(reader, "00042", "spend")[0] == 200)
            shutil.rmtree(remote / "churn")
            upsert(publisher.model_copy(update={"store_remote": ""}), predictions({"00007": 0.125}))
            publish(publisher.model_copy(update={"store_remote": ""}), in_redis)
            assert eventually(lambda: ask(reader, "00007")[1]["churn_probability"] == 0.125)
            assert ask(reader, "00001")[0] == 200


def test_without_its_live_layer_a_version_is_not_served_and_a_new_reader_waits_for_it(
    replica: Settings, remote: Path
) -> None:
    write_version(remote, "churn", churn_rows(50), cut=3)
    write_layer(Store(remote / "churn").layout, LAYER)
    write_layer(live_store(remote, "alone"), replace(LAYER, stream="alone"))
    with serving(replica, remote, wait=False, reader_waits_for_all=True) as reader:
        assert eventually(lambda: "live layer" in str(ask_or_none(reader, "00042")))
        assert httpx.get(f"{reader.url}/readyz").status_code == 503
        assert pull_layers(replica, LocalFolder(remote)) == ["alone"]
        for name in ("churn", "alone"):
            with open_live_writer(Store(replica.store_path / name).layout, map_bytes=1 << 16) as writer:
                writer.apply(4, [(b"00007", live_row(4, 0.125))])
        reader.wait_until_ready()
        assert ask(reader, "00007")[1]["risk_segment"] == "streamed"
        assert ask(reader, "00042") == (200, churn_rows(50)["00042"])
        assert ask(reader, "nobody")[0] == 404
        # A store that has only a live layer is served from that, as what it lacks is in no version.
        assert eventually(lambda: ask(reader, "00007", "alone")[0] == 200)
        assert ask(reader, "00042", "alone")[0] == 404


def test_a_new_reader_that_waits_for_all_is_ready_once_it_has_the_models_of_the_remote(
    settings: Settings, replica: Settings, remote: Path
) -> None:
    write_version(remote, "churn", churn_rows(50))
    release_model(settings, payments)
    push_releases(open_releases(settings, "payments"), LocalFolder(remote))
    with serving(replica, remote, wait=False, reader_waits_for_all=True) as reader:
        assert eventually(lambda: (ask_or_none(reader, "00042") or (0,))[0] == 200)
        assert eventually(lambda: "release of payments" in httpx.get(f"{reader.url}/readyz").text)
        pull_releases(open_releases(replica, "payments"), LocalFolder(remote))
        reader.wait_until_ready()


def ask_or_none(reader: RunningReader, key: str) -> tuple[int, Any] | None:
    try:
        return ask(reader, key)
    except httpx.TransportError:
        return None
