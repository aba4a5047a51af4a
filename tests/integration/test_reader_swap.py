"""New versions under a running reader: swapped in without a failed or mixed answer, old ones let go."""

import time
from collections.abc import Callable
from functools import partial

import httpx
from reader_support import RunningReader, churn_rows, running_reader, served, write_version
from waiting import ThreadsBeside, eventually

from forecache.base.settings import Settings
from forecache.serve.store import Store


class Load(ThreadsBeside):
    """Threads that ask without a pause and check that each answer is of one version through and through."""

    def __init__(self, reader: RunningReader, shift_of: Callable[[int], float], num_threads: int = 3) -> None:
        super().__init__(*(partial(self._ask, reader, which) for which in range(num_threads)))
        self.answers = 0
        self.versions: set[int] = set()
        self.wrong: list[object] = []
        self._base = churn_rows(500)
        self._shift_of = shift_of

    def _ask(self, reader: RunningReader, which: int) -> None:
        keys = [f"{index:05d}" for index in range(0, 500, 5)]
        with httpx.Client(base_url=reader.url) as http:
            while not self.stop.is_set():
                try:
                    if which == 0:
                        response = http.post("/v1/churn", json={"keys": keys})
                        data = response.json()
                        found = {row["key"]: row["value"]["churn_probability"] for row in data["results"]}
                    else:
                        response = http.get("/v1/churn/00042")
                        data = response.json()
                        found = {"00042": data["value"]["churn_probability"]}
                except Exception as error:  # noqa: BLE001  # whatever fails is what the test is about
                    self.wrong.append(repr(error))
                    continue
                version = data.get("store_version", 0)
                shift = self._shift_of(version)
                expected = {key: round(self._base[key]["churn_probability"] + shift, 6) for key in found}
                if response.status_code != 200 or found != expected:
                    self.wrong.append((response.status_code, data))
                self.answers += 1
                self.versions.add(version)


def test_versions_swapped_in_under_load_fail_no_request_and_mix_no_answer(settings: Settings) -> None:
    path = settings.store_path
    write_version(path, "churn", churn_rows(500, shift=1.0))
    with running_reader(settings, reader_workers=2) as reader:
        with Load(reader, lambda version: float(version)) as load:
            assert eventually(lambda: 1 in load.versions)
            for number in range(2, 8):
                assert write_version(path, "churn", churn_rows(500, shift=float(number))) == number
                assert eventually(lambda number=number: served(reader) == number)
                time.sleep(0.1)
            assert eventually(lambda: 7 in load.versions and load.answers > 200)
        assert load.wrong == []
        assert {1, 7} <= load.versions
        store = Store(path / "churn")
        # Both workers hold the last version and have let all others go.
        assert eventually(lambda: [n for n in range(1, 8) if "open" in store.state(n)] == [7])


def test_rollback_pin_and_new_pipelines_are_followed(settings: Settings) -> None:
    path = settings.store_path
    for number in (1, 2, 3):
        write_version(path, "churn", churn_rows(5, shift=float(number)))
    with running_reader(settings) as reader:
        store = Store(path / "churn")
        assert served(reader) == 3
        etag = httpx.get(f"{reader.url}/v1/churn/00001").headers["etag"]
        store.rollback()
        assert eventually(lambda: served(reader) == 2)
        after = httpx.get(f"{reader.url}/v1/churn/00001", headers={"if-none-match": etag})
        assert (after.status_code, after.json()["store_version"]) == (200, 2)
        store.pin(1)
        assert eventually(lambda: served(reader) == 1)
        history = httpx.get(f"{reader.url}/versions/churn").json()["versions"]
        assert [row["state"] for row in history] == [["blocked"], ["current"], ["serving", "pinned"]]
        store.unpin()
        assert eventually(lambda: served(reader) == 2)
        assert served(reader, "spend") is None
        write_version(path, "spend", churn_rows(5))
        assert eventually(lambda: served(reader, "spend") == 1)


def test_a_reader_that_starts_before_the_first_publish_becomes_ready_with_it(settings: Settings) -> None:
    with running_reader(settings, wait=False) as reader:
        assert eventually(lambda: _status(f"{reader.url}/readyz") == 503)
        assert _status(f"{reader.url}/healthz") == 200
        assert httpx.get(f"{reader.url}/readyz").json()["type"] == "urn:forecache:problem:not-ready"
        write_version(settings.store_path, "churn", churn_rows(5))
        assert eventually(lambda: _status(f"{reader.url}/readyz") == 200)


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return 0
