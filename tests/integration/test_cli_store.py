"""`forecache publish`, `versions`, `get`, `rollback`, `pin`, `unpin`, `release` and `serve` on a real store."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from free_ports import free_port
from list_tables import SERVED, top
from reader_support import write_version
from store_services import redis_server
from waiting import wait_for

from forecache.base.settings import load_settings
from forecache.cli.main import main
from forecache.declare import load_pipeline
from forecache.kit.delta.tables import append_rows
from forecache.plugins.redis.versions import open_redis_store
from forecache.serve.store import Field, Store

OTHERS = {f"1{number:04}": number / 100 for number in range(100)}
NIGHTS = (date(1998, 6, 29), date(1998, 6, 30))


def add_predictions(night: date, scores: dict[str, float]) -> None:
    num = len(scores)
    rows = pa.table(
        {
            "customer_id": list(scores),
            "churn_probability": list(scores.values()),
            "risk_segment": ["high"] * num,
            "model_name": ["churn"] * num,
            "model_version": pa.array([3] * num, pa.int32()),
            "feature_version": pa.array([7] * num, pa.int64()),
            "scored_at": pa.array([datetime(1998, 7, 1, 2, tzinfo=timezone.utc)] * num, pa.timestamp("us", "UTC")),
            "run_id": ["run-1"] * num,
            "as_of": pa.array([night] * num, pa.date32()),
        }
    )
    append_rows(load_settings(), "predictions_churn", rows, partition_by=("as_of",))


@pytest.fixture(autouse=True)
def _predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    add_predictions(NIGHTS[0], {"00001": 0.25, "00002": 0.5, **OTHERS})


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The JSON answer of a command that has to succeed."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def two_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "publish", "churn", "--unchecked")["details"]["version"] == 1
    add_predictions(NIGHTS[1], {"00001": 0.75, "00002": 0.5, **OTHERS, "00003": 1.0})
    assert answer(capsys, "publish", "churn", "--unchecked")["details"]["version"] == 2


def test_publish_then_get_gives_value_and_provenance(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "publish", "churn", "--unchecked")["rows"] == 102
    found = answer(capsys, "get", "churn", "00001")
    assert found["value"] == {"churn_probability": 0.25, "risk_segment": "high"}
    assert (found["store_version"], found["model"]) == (1, {"name": "churn", "version": 3})
    assert found["as_of"] == "1998-06-29"
    assert found["stale"] is True


def test_publish_again_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "publish", "churn", "--unchecked")
    again = answer(capsys, "publish", "churn", "--unchecked")
    assert again["skipped"] is True
    assert [item["version"] for item in answer(capsys, "store", "versions", "churn")] == [1]


@pytest.mark.usefixtures("two_versions")
def test_get_reads_an_older_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "get", "churn", "00001")["value"]["churn_probability"] == 0.75
    assert answer(capsys, "get", "churn", "00001", "--version", "1")["value"]["churn_probability"] == 0.25


@pytest.mark.usefixtures("two_versions")
def test_get_of_several_keys_keeps_their_order_and_marks_missing_ones(capsys: pytest.CaptureFixture[str]) -> None:
    results = answer(capsys, "get", "churn", "00003", "99999", "00001")["results"]
    assert [(item["key"], item["found"]) for item in results] == [("00003", True), ("99999", False), ("00001", True)]
    assert main(["get", "churn", "00003", "99999"]) == 0
    assert "no such key" in capsys.readouterr().out


def test_get_cuts_lists(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {key: {"items": top(20)} for key in ("1234", "1235")}
    write_version(load_settings().store_path, "recommended", rows, fields=(Field("items", SERVED["items"]),))
    assert answer(capsys, "get", "recommended", "1234")["value"] == {"items": top(20)}
    assert answer(capsys, "get", "recommended", "1234", "--limit", "3")["value"] == {"items": top(3)}
    several = answer(capsys, "get", "recommended", "1234", "1235", "--limit", "3")["results"]
    assert [each["value"] for each in several] == [{"items": top(3)}] * 2
    assert main(["get", "recommended", "1234", "--limit", "1"]) == 0
    assert "P000000" in capsys.readouterr().out
    assert main(["get", "recommended", "1234", "--limit", "0"]) == 2


@pytest.mark.usefixtures("two_versions")
def test_rollback_serves_the_version_before_and_blocks_the_one_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "rollback", "churn")["version"] == 1
    states = {item["version"]: item["state"] for item in answer(capsys, "store", "versions", "churn")}
    assert "current" in states[1]
    assert "blocked" in states[2]
    assert main(["rollback", "churn"]) == 3
    assert "roll back" in capsys.readouterr().err


@pytest.mark.usefixtures("two_versions")
def test_release_lets_a_blocked_version_be_published_and_rolled_back_to_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer(capsys, "rollback", "churn")
    assert main(["publish", "churn", "--unchecked"]) == 6
    assert "forecache store unblock churn 2" in capsys.readouterr().err
    released = answer(capsys, "store", "unblock", "churn", "2")
    assert (released["version"], released["state"]) == (2, [])
    assert answer(capsys, "rollback", "churn", "--to", "2")["version"] == 2
    assert main(["store", "unblock", "churn", "2"]) == 0
    assert capsys.readouterr().out == "Version 2 of churn is not blocked.\n"
    assert main(["store", "unblock", "churn", "9"]) == 3


def served_by(remote: Path) -> int:
    pointer = json.loads((remote / "churn" / "CURRENT").read_text())
    return int(pointer["pinned"] or pointer["current"])


def test_a_remote_follows_rollback_release_pin_and_unpin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = tmp_path / "remote"
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(remote))
    answer(capsys, "publish", "churn", "--unchecked")
    add_predictions(NIGHTS[1], {"00001": 0.75, "00002": 0.5, **OTHERS})
    answer(capsys, "publish", "churn", "--unchecked")
    assert served_by(remote) == 2
    assert answer(capsys, "rollback", "churn")["targets"]["remote"]["version"] == served_by(remote) == 1
    (remote / "churn" / "CURRENT").unlink()
    assert answer(capsys, "store", "unblock", "churn", "2")["targets"]["remote"]["version"] == served_by(remote) == 1
    assert answer(capsys, "store", "pin", "churn", "2")["targets"]["remote"]["version"] == served_by(remote) == 2
    assert answer(capsys, "store", "unpin", "churn")["targets"]["remote"]["version"] == served_by(remote) == 1


@pytest.mark.usefixtures("two_versions")
def test_a_rollback_stands_where_the_remote_cannot_follow_and_push_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = tmp_path / "remote"
    remote.write_text("a file where the folder should be")
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(remote))
    assert main(["rollback", "churn"]) == 7
    said = capsys.readouterr().err
    assert "That is done here, but not in every replica of churn" in said
    assert "run `forecache store push churn`" in said
    assert answer(capsys, "get", "churn", "00001")["store_version"] == 1
    remote.unlink()
    assert answer(capsys, "store", "push", "churn")[0]["version"] == served_by(remote) == 1


def test_redis_follows_a_rollback_and_push_brings_it_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = load_pipeline(load_settings(), "churn")
    in_redis = replace(declared, publish=replace(declared.publish, backend="redis"))
    monkeypatch.setattr("dagster_project.pipelines.churn.churn", in_redis)
    with redis_server(tmp_path / "redis") as port:
        monkeypatch.setenv("FORECACHE_REDIS_URL", f"redis://127.0.0.1:{port}")
        answer(capsys, "publish", "churn", "--unchecked")
        add_predictions(NIGHTS[1], {"00001": 0.75, "00002": 0.5, **OTHERS})
        answer(capsys, "publish", "churn", "--unchecked")
        assert answer(capsys, "rollback", "churn")["targets"]["redis"]["version"] == 1
        there = open_redis_store(load_settings(), "churn")
        assert there.snapshot().manifest.version == 1
        there.client.flushall()
        pushed = answer(capsys, "store", "push", "churn")
        assert [(row["target"], row["version"], row["loaded"]) for row in pushed] == [("redis", 1, 102)]
        assert there.snapshot().get(b"00001") is not None
        there.client.close()


@pytest.mark.usefixtures("two_versions")
def test_pin_holds_a_version_until_unpin(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "store", "pin", "churn", "1")
    assert answer(capsys, "get", "churn", "00001")["store_version"] == 1
    answer(capsys, "store", "unpin", "churn")
    assert answer(capsys, "get", "churn", "00001")["store_version"] == 2


@pytest.mark.usefixtures("two_versions")
def test_versions_table_names_the_served_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "versions", "churn"]) == 0
    (served,) = [line for line in capsys.readouterr().out.splitlines() if "served" in line]
    assert served.split()[0] == "2"


@pytest.mark.usefixtures("two_versions")
def test_diff_counts_keys_and_names_the_top_movers(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "store", "diff", "churn", "1", "2")
    assert {name: found[name] for name in ("changed", "added", "removed", "unchanged")} == {
        "changed": 1,
        "added": 1,
        "removed": 0,
        "unchanged": 101,
    }
    assert [(mover["key"], mover["change"]) for mover in found["top_movers"]] == [("00001", 0.5)]
    assert main(["store", "diff", "churn", "1", "2"]) == 0
    assert "00001" in capsys.readouterr().out


def test_scores_that_drifted_too_far_are_not_published(capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "publish", "churn", "--unchecked")
    add_predictions(NIGHTS[1], dict.fromkeys(["00001", "00002", *OTHERS], 0.9))
    assert main(["publish", "churn", "--unchecked"]) == 6
    assert "drifted" in capsys.readouterr().err
    assert answer(capsys, "get", "churn", "00001")["value"]["churn_probability"] == 0.25


def test_pushed_versions_are_pulled_by_a_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "push", "churn"]) == 2
    assert "FORECACHE_STORE_REMOTE" in capsys.readouterr().err
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(tmp_path / "remote"))
    answer(capsys, "publish", "churn", "--unchecked")
    answer(capsys, "store", "push", "churn")
    monkeypatch.setenv("FORECACHE_STORE", str(tmp_path / "replica"))
    assert [row["version"] for row in answer(capsys, "store", "versions", "churn")] == [1]
    assert Store(tmp_path / "replica" / "churn").pointer().current is None
    assert answer(capsys, "store", "pull", "churn")[0]["version"] == 1
    monkeypatch.setenv("FORECACHE_STORE", str(tmp_path / "empty"))
    assert answer(capsys, "get", "churn", "00001")["store_version"] == 1
    assert answer(capsys, "get", "churn", "00001")["value"]["churn_probability"] == 0.25


def test_a_replica_goes_on_pulling_until_it_is_told_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(tmp_path / "remote"))
    replica = Store(tmp_path / "replica" / "churn")
    command = [sys.executable, "-m", "forecache.cli.main", "store", "pull", "--every", "1"]
    environment = {**os.environ, "FORECACHE_STORE": str(tmp_path / "replica")}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as going:
        for version, how in ((1, []), (2, ["--full"])):
            answer(capsys, "publish", "churn", "--unchecked", *how)
            wait_for(lambda wanted=version: replica.pointer().serving == wanted)
        going.terminate()
        assert going.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["get", "churn", "77777"], 3, "has no key '77777'"),
        (["get", "churn", ""], 4, "The key ''"),
        (["get", "churn", "00001", "--version", "9"], 3, "has no version 9"),
        (["publish", "churn", "--date", "1998-01-01"], 3, "1998-01-01"),
        (["publish", "nope"], 3, "There is no pipeline, recommender or feature view 'nope'"),
        (["store", "versions", "spend"], 3, "Nothing is published for spend"),
        (["get", "spend", "00001"], 3, "Nothing is published for spend"),
        (["store", "pin", "churn", "9"], 3, "has no version 9"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "publish", "churn", "--unchecked")
    assert main(arguments) == code
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_locked_store_says_so_and_a_later_publish_goes_through(capsys: pytest.CaptureFixture[str]) -> None:
    holder = (
        "import sys\n"
        "from forecache.base.settings import load_settings\n"
        "from forecache.serve.store import open_store\n"
        "from forecache.kit.versioned.pointer import lock_versions\n"
        "with lock_versions(open_store(load_settings(), 'churn').layout, action='publish'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert main(["publish", "churn", "--unchecked"]) == 5
        assert "churn" in capsys.readouterr().err
        process.communicate("")
    assert answer(capsys, "publish", "churn", "--unchecked")["details"]["version"] == 1


def test_serve_on_a_port_in_use_is_a_conflict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("FORECACHE_READER_PORT", str(port))
        assert main(["serve"]) == 5
    assert f"Port {port} on 127.0.0.1 is in use." in capsys.readouterr().err


def test_get_answers_as_the_reader_does(capsys: pytest.CaptureFixture[str]) -> None:
    from forecache.plugins.new_project.reader_process import ReaderProcess

    answer(capsys, "publish", "churn", "--unchecked")
    with ReaderProcess(load_settings(reader_port=free_port())) as reader:
        over_http = reader.get_answer("churn", "00002")
    in_process = answer(capsys, "get", "churn", "00002")
    for answered in (over_http, in_process):
        answered.pop("age_s")
        answered.pop("found", None)
    assert over_http == in_process


def test_reader_that_is_no_longer_wanted_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    from forecache.plugins.new_project.reader_process import ReaderProcess

    answer(capsys, "publish", "churn", "--unchecked")
    with ReaderProcess(load_settings(reader_port=free_port())) as reader:
        port = reader.port

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(lambda: not listens())
