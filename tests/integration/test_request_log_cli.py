"""`forecache log`: what was answered, as a table and as lines of JSON, what waits, and a committer that ends."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from log_support import commit_all, logged, spool
from second_process import running

from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.realtime.log.spool_files import segments_of


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path))
    return load_settings(home=str(tmp_path))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        assert main(["log", *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_the_newest_answers_are_shown_oldest_first(settings: Settings, said: Callable[..., str]) -> None:
    now = time.time_ns() // 1000
    for place, ids in enumerate((["a", "b"], ["c"])):
        spool(settings, [ids], arrived_us=now + place * 1000).close()
    commit_all(settings)
    lines = [json.loads(line) for line in said("show", "search", "--json").splitlines()]
    assert [each["request_id"] for each in lines] == ["a", "b", "c"]
    first = lines[0]
    assert (first["request"], first["features"], first["order"]) == ({"household_id": 1}, None, [0])
    assert first["times_us"] == {
        "wait": 1, "parse": 2, "lookup": 3, "transform": 4, "model": 5, "fallbacks": 6, "total": 21
    }  # fmt: skip
    assert json.loads(said("show", "search", "--json", "--last", "1"))["request_id"] == "c"
    table = said("show", "search", "--request-id", "b")
    assert " b " in table
    assert " a " not in table
    assert "default" in table
    assert said("show", "search", "--date", "2020-01-01") == ""


def test_answers_of_the_same_microsecond_are_shown_like_others(settings: Settings, said: Callable[..., str]) -> None:
    now = time.time_ns() // 1000
    for place, ids in enumerate((["a", "b"], ["c", "d"])):
        spool(settings, [ids], arrived_us=now + place).close()
    commit_all(settings)
    lines = [json.loads(line) for line in said("show", "search", "--last", "2", "--json").splitlines()]
    assert sorted(each["request_id"] for each in lines) == ["c", "d"]


def test_the_spool_says_what_waits_and_what_was_committed(settings: Settings, said: Callable[..., str]) -> None:
    stream = spool(settings, [["a", "b"], ["c"]], arrived_us=time.time_ns() // 1000)
    [found] = json.loads(said("spool", "--json"))
    assert (found["name"], found["segments"], found["rows"]) == ("search", 2, 0)
    assert found["bytes"] == sum(each.path.stat().st_size for each in segments_of(stream.folder))
    assert said("commit", "--once") == ""
    [found] = json.loads(said("spool", "--json"))
    assert (found["segments"], found["rows"], found["commits"], found["failure"]) == (0, 3, 1, "")
    assert "search" in said("spool")
    stream.close()


def test_a_committer_goes_on_until_its_input_ends_and_commits_what_is_left(settings: Settings) -> None:
    command = [sys.executable, "-m", "forecache.cli.main", "log", "commit", "--until-input-ends"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        spool(settings, [["a"]], arrived_us=time.time_ns() // 1000).close()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0
    assert [row["request_id"] for row in logged(settings)] == ["a"]


_ROTATES = """
import os, sys
from pathlib import Path
from forecache.realtime.log.spool_stream import SpoolStream
stream = SpoolStream(Path(sys.argv[1]), replica="here:8080#1", most_age_s=60.0)
print(flush=True)
while True:
    stream.write(memoryview(b"frame"), 1, 0)
    stream.close_segment()
    for name in os.listdir(stream.folder):
        if name.endswith(".log"):
            os.unlink(stream.folder / name)
"""


def test_the_spool_is_shown_while_segments_are_closed_and_committed(
    settings: Settings, said: Callable[..., str]
) -> None:
    with running(_ROTATES, settings.request_log_path / "search"):
        for _ in range(800):
            said("spool", "--json")
