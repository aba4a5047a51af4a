"""`forecache release bento`, and the real BentoML serving what it wrote."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from bento_server import BENTOML, bento_server, bentoml_environment
from ranking_code import transforms
from reader_support import running_reader
from realtime_support import write_views
from release_support import HOUSEHOLD, a_request, make_release
from waiting import eventually

from forecache.base.errors import InputError, NotFoundError, SettingsError, UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.declare.realtime.request import RequestField
from forecache.plugins.protocols.bento_model import BentoModel
from forecache.plugins.protocols.write_bento import missing_views, write_bento
from forecache.realtime.release.folder import open_releases, read_release
from forecache.realtime.release.replicas import push_releases
from forecache.serve.store import Store, open_store
from forecache.serve.store.push_pull import push
from forecache.serve.store.remote import open_remote


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "lightgbm", "function"])
def test_bentoml_answers_as_the_reader_does(settings: Settings, tmp_path: Path, runtime: str) -> None:
    write_views(settings)
    make_release(settings, runtime=runtime, deadline_ms=60_000.0)
    folder = tmp_path / "bento_ranking"
    write_bento(settings, "ranking", folder)
    body = a_request(products=("a", "b", "c", "unknown"))
    with running_reader(settings) as reader, bento_server(folder, settings) as url:
        own: dict[str, Any] = {}

        def by_the_model() -> bool:
            own.clear()
            own.update(httpx.post(f"{reader.url}/v1/ranking", content=body).json())
            return "fallback_reason" not in own

        assert eventually(by_the_model)
        answer = httpx.post(f"{url}/v1/ranking", content=body, headers={"content-type": "application/json"}).json()
        assert [item["product_id"] for item in answer["items"]] == [item["product_id"] for item in own["items"]]
        kind = np.float64 if runtime == "lightgbm" else np.float32
        scores = [[kind(item["score"] or 0.0).tobytes() for item in each["items"]] for each in (answer, own)]
        assert scores[0] == scores[1]
        assert (answer["model"], answer["release"]) == (own["model"], own["release"])
        assert answer["stores"].keys() == own["stores"].keys()

        wrong = httpx.post(f"{url}/v1/ranking", json={"household_id": "one", "candidates": []})
        assert wrong.status_code == 400
        assert "The request field 'household_id' is 'one'." in wrong.text
        for number in ("NaN", "-Infinity", "1e400"):
            body_ = f'{{"household_id": 1, "candidates": [{{"product_id": "a", "price": {number}}}]}}'
            wrong = httpx.post(f"{url}/v1/ranking", content=body_, headers={"content-type": "application/json"})
            assert wrong.status_code == 400, (number, wrong.text)
            assert "The request field 'price' has a number that is not finite" in wrong.text

        write_views(settings, shift=1.0)

        def version() -> int:
            told = httpx.post(f"{url}/v1/ranking", content=body, headers={"content-type": "application/json"}).json()
            return int(told["stores"]["household"]["version"])

        assert eventually(lambda: version() == 2), "a new version of the store is followed"


def test_the_model_of_one_value_and_its_stores(settings: Settings, tmp_path: Path) -> None:
    make_release(
        settings, name="card_fraud", transform=transforms.fraud, features=("amount", "spend"), candidates=None,
        lookups=(HOUSEHOLD,), request=(RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)),
        warmup=[b'{"household_id": 1, "amount": 2.5}'],
    )  # fmt: skip
    release = write_bento(settings, "card_fraud", tmp_path / "bento")
    model = BentoModel(tmp_path / "bento" / "card_fraud" / "releases" / "00000001", settings.store_path)
    none = "The view household has no published version here.*none in Redis or.*`forecache store pull household` brings"
    with pytest.raises(UnavailableError, match=none):
        model.ask({"household_id": 1})
    write_views(settings)
    model._stores._look_at = 0.0
    answer = model.ask({"household_id": 1, "amount": 2.5, "request_id": "q"})
    assert isinstance(answer["value"]["score"], float)
    assert (answer["request_id"], answer["release"]) == ("q", release.number)
    assert answer["stores"]["household"]["version"] == 1
    service = (tmp_path / "bento" / "service.py").read_text()
    assert "    async def ask(" in service
    assert "class CardFraud:" in service
    assert '@bentoml.service(name="card_fraud")' in service
    with pytest.raises(InputError, match="amount"):
        model.ask({"household_id": 1, "amount": "much"})
    # The snapshot of a former version is closed.
    write_views(settings)
    model._stores._look_at = 0.0
    assert model.ask({"household_id": 1})["stores"]["household"]["version"] == 2
    assert "open" not in Store(settings.store_path / "household").state(1)
    model._loaded.close()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_refused_or_taken_as_it_is(
    settings: Settings, tmp_path: Path, number: float
) -> None:
    write_views(settings)
    scores: dict[float | None, Any] = {}
    for on_nan in ("refuse", "accept"):
        make_release(
            settings, name=on_nan, on_nan=on_nan, runtime="function", transform=transforms.fraud, candidates=None,
            request=(RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)),
            features=("amount", "spend"), lookups=(HOUSEHOLD,), warmup=[b'{"household_id": 1}'],
        )  # fmt: skip
        write_bento(settings, on_nan, tmp_path / on_nan)
        model = BentoModel(tmp_path / on_nan / on_nan / "releases" / "00000001", settings.store_path)
        with pytest.raises(InputError, match="'household_id' is"):
            model.ask({"household_id": number})
        if on_nan == "refuse":
            with pytest.raises(InputError, match="'amount' has a number that is not finite; send finite numbers"):
                model.ask({"household_id": 1, "amount": number})
        else:
            scores = {key: model.ask({"household_id": 1, "amount": key})["value"]["score"] for key in (None, number)}
        model._loaded.close()
    assert np.isfinite(scores.pop(None)), "of the default"
    assert list(scores.values()) == [None if np.isnan(number) else number]


def test_a_replica_of_a_remote_serves_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_release(settings)
    write_views(settings)
    remote = open_remote((tmp_path / "remote").as_uri(), {})
    push_releases(open_releases(settings, "ranking"), remote)
    for view in ("household", "product"):
        push(open_store(settings, view), remote)
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "replica"))
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", (tmp_path / "remote").as_uri())
    replica = load_settings()
    assert main(["store", "pull", "ranking"]) == 0
    folder = tmp_path / "bento"
    capsys.readouterr()
    assert main(["release", "bento", "ranking", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["views_not_here"] == ["household", "product"]
    assert main(["release", "bento", "ranking", str(folder)]) == 0
    assert "No version here of household, product. A BentoML service reads" in capsys.readouterr().out
    assert main(["store", "pull"]) == 0
    assert missing_views(replica, read_release(open_releases(replica, "ranking"), 1)) == []
    request = json.loads(a_request(products=("a", "b", "unknown")))
    models = [
        BentoModel(folder / "ranking" / "releases" / "00000001", place.store_path) for place in (settings, replica)
    ]
    answers = [model.ask(request) for model in models]
    for answer in answers:
        for each in answer["stores"].values():
            each.pop("age_s")
    assert answers[0] == answers[1]
    assert len(answers[0]["items"]) == 3
    assert models[0].ask({**request, "candidates": []})["items"] == []
    with pytest.raises(SettingsError, match="FORECACHE_STORE is 's3://bucket/store', and a store is a folder"):
        _ = load_settings(store="s3://bucket/store").store_path


@pytest.mark.slow
def test_bentoml_builds_what_was_written(settings: Settings, tmp_path: Path) -> None:
    make_release(settings)
    write_bento(settings, "ranking", tmp_path / "bento")
    built = subprocess.run(
        [str(BENTOML), "build", "--output", "tag"], cwd=tmp_path / "bento", env=bentoml_environment(settings),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-1000:] + built.stderr[-2000:]
    tag = built.stdout.strip().splitlines()[-1].rpartition("ranking:")[2].strip()
    source = settings.home / "bentoml" / "bentos" / "ranking" / tag / "src"
    assert (source / "ranking" / "releases" / "00000001" / "model.bin").is_file()


def test_the_folder_is_written_again_and_nothing_else_is_replaced(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home))
    make_release(settings)
    folder = tmp_path / "services" / "ranking"
    assert main(["release", "bento", "ranking", str(folder)]) == 0
    assert "Release 1 of ranking is a BentoML service" in capsys.readouterr().out
    assert "onnxruntime==" in (folder / "requirements.txt").read_text()
    make_release(settings, version=2)
    assert main(["release", "bento", "ranking", str(folder), "--json"]) == 0
    assert '"release": 2' in capsys.readouterr().out
    assert [path.name for path in (folder / "ranking" / "releases").iterdir()] == ["00000002"]
    assert main(["release", "bento", "ranking", str(folder), "--release", "1"]) == 0
    assert [path.name for path in folder.parent.iterdir()] == ["ranking"]

    with pytest.raises(NotFoundError):
        write_bento(settings, "nothing", folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "service.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="did not write"):
        write_bento(settings, "ranking", tmp_path / "mine")
    assert (tmp_path / "mine" / "service.py").read_text() == "x = 1\n"
