"""Everything that wakes periodically is in one list, which an operator can read."""

import ast
import json
import re
from collections.abc import Iterator

import pytest

from forecache.base.settings import PROJECT_ROOT, Settings
from forecache.cli.main import main
from forecache.kit.process import wakes
from forecache.kit.process.wakes import WAKES
from forecache.serve.reader.versions import follow as watcher

ROOMS = ("forecache", "assets", "jobs", "resources")
MODULES = [path for room in ROOMS for path in sorted((PROJECT_ROOT / room).rglob("*.py"))]
PAUSES = {"wait", "wait_for", "_pause", "sleep", "call_later", "poll", "is_readable"}
LIST = {name for name, value in vars(wakes).items() if isinstance(value, wakes.Wake)}

RULED = {
    "serve/reader/versions/follow.py:Watcher._run": "STORE_POLL",
    "serve/reader/versions/damage.py:Scrubber._run": "SCRUB",
    "realtime/log/spool_writer.py:LogWriter._run": "LOG_SPOOL",
    "realtime/log/commit_loop.py:run_committer": "LOG_COMMIT",
    "stream/tail/tailer.py:run_tailer": "TAILER_POLL",
    "plugins/lineage/stream_runs.py:_RunReporter._report_this_run": "STREAM_LINEAGE",
}
"""Periodic loops whose period follows from a setting, or is stated in their own module."""

BOUNDED = {
    # A file of a new project: a person watches it send.
    "plugins/new_project/templates/stream/new_project/send.py:main",
    # A person looks on.
    *("cli/commands/log.py:show", "plugins/rollouts/command.py:rollouts", "plugins/rollouts/command.py:watch"),
    "plugins/status/command.py:status",
    # Attempts and waits that have a deadline or a largest number.
    *("base/files.py:_try_lock_for", "kit/versioned/leases.py:take_lease", "serve/store/store.py:Store.snapshot"),
    *("kit/delta/commit.py:read_commit_mark", "kit/delta/commit.py:commit", "kit/delta/files.py:retry_write"),
    *("lake/ingest/ingest.py:retry_if_overtaken", "kit/smtp.py:Relay._connection"),
    *("serve/reader/client.py:Client._send", "serve/reader/client.py:AsyncClient._send"),
    *(
        "kit/http/connections.py:Connections.drain",
        "kit/http/connections.py:Connections._accept",
        "serve/reader/versions/follow.py:Watcher.run_on_loop",
    ),
    *("realtime/answer/in_loop.py:_time_calls_s", "plugins/redis/realtime_lookups.py:RemoteReads.get"),
    "serve/store/live/reader.py:wait_until_applied",
    "kit/lease.py:_acquire",
    "runs.py:ProcessExecutor._carry_out",
    "realtime/workers/model_process.py:ProcessTemplate.fork",
    "realtime/workers/model_process.py:ProcessTemplate._wait_until_ready",
    "realtime/workers/model_process.py:ModelProcess._wait_until_warm",
    "stream/engine/sharded_engine.py:_ShardThread._run",  # a shard that another process still has
    # Work in progress: results that are waited for, a full disk or a broker that is away, pauses for others.
    *("scoring/tasks/engines.py:score_with_arrow", "serve/store/publishing/worker_pool.py:ProcessPool.map"),
    *("serve/store/publishing/publication.py:row_blocks", "stream/tail/layer_comparison.py:_summarize_rows"),
    *("stream/tail/layer_comparison.py:_read_tiles", "stream/dedup/id_folder.py:IdWriter._run"),
    *("stream/kafka/client.py:produce", "stream/engine/arrow_engine.py:BatchCommitter._commit"),
    *(
        "stream/engine/arrow_engine.py:ArrowEngine._commit_rest",
        "plugins/spark_stream/engine.py:SparkEngine._run_queries",
    ),
    "stream/engine/arrow_engine.py:ArrowEngine._show_pending",
    "stream/state.py:is_reported",
    *(
        "plugins/stream_answers/send_answers.py:_read_newest_version",
        "plugins/torch/worker/parallel.py:WorkerGroup.run_on_rank_0",
    ),
}
"""Loops with a pause that are not periodic activities: each ends by itself, with its work, or with who looks on."""


def pausing_functions() -> Iterator[tuple[str, set[str]]]:
    """Functions that pause in a loop or that schedule themselves again, and the names of the list in them."""
    for path in MODULES:
        if "kit/process" in str(path):
            continue
        for name, function in functions(ast.parse(path.read_text())):
            if any(is_pause(each) for loop in loops(function) for each in ast.walk(loop)):
                named = {each.id for each in ast.walk(function) if isinstance(each, ast.Name)} & LIST
                yield f"{path.relative_to(PROJECT_ROOT)}:{name}".removeprefix("forecache/"), named


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def loops(function: ast.AST) -> Iterator[ast.AST]:
    """The loops of a function, and the timers by which it calls itself again."""
    name = getattr(function, "name", "")
    for node in ast.walk(function):
        is_timer = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "call_later"
        if isinstance(node, (ast.While, ast.For, ast.AsyncFor)) or (
            is_timer and any(ast.unparse(each) in (name, f"self.{name}") for each in node.args)
        ):
            yield node


def is_pause(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or getattr(node.func, "attr", getattr(node.func, "id", "")) not in PAUSES:
        return False
    given = [*node.args, *(each.value for each in node.keywords)]
    return bool(given) and not (isinstance(given[0], ast.Constant) and given[0].value == 0)


def texts() -> str:
    return "\n".join(path.read_text() for path in MODULES if path.name != "wakes.py")


def test_each_loop_that_pauses_is_in_the_list_or_is_no_periodic_activity() -> None:
    unlisted = {name for name, named in pausing_functions() if not named}
    assert unlisted - RULED.keys() - BOUNDED == set(), "give it an entry in forecache/kit/process/wakes.py"
    assert unlisted >= BOUNDED
    assert RULED.keys() <= {name for name, _ in pausing_functions()}


def test_a_loop_that_is_not_in_the_list_is_found() -> None:
    code = "class Poller:\n    def run(self):\n        while True:\n            time.sleep(5)\n"
    timer = "def look():\n    loop.call_later(5, look)\n"
    for text, name in ((code, "Poller.run"), (timer, "look")):
        [(found, function)] = functions(ast.parse(text))
        assert found == name
        assert any(is_pause(each) for loop in loops(function) for each in ast.walk(loop))


def test_each_entry_of_the_list_is_used_or_explained() -> None:
    used = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", texts())) | set(RULED.values())
    assert LIST - used == set()
    assert "Wake(" not in texts(), "entries stand in the list alone"
    assert "minimum_interval_seconds=int(" in texts()
    assert not re.search(r"minimum_interval_seconds=(?!int\([A-Z_]+\.every_s\))", texts())


def test_a_period_that_another_module_states_is_that_of_the_list() -> None:
    assert wakes.STORE_POLL.every_s == watcher.POLL_S


def test_an_entry_has_a_period_or_names_a_setting_that_exists() -> None:
    assert len({each.name for each in WAKES}) == len(WAKES)
    known = {f"FORECACHE_{name.upper()}" for name in Settings.model_fields}
    for each in WAKES:
        assert (each.every_s > 0) != bool(each.rule), each
        assert set(re.findall(r"FORECACHE_\w+", each.rule)) <= known, each


def test_the_command_lists_process_and_period(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--wakes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(WAKES)
    assert {"process": "worker of the reader", "period": "0.25 s", "purpose": wakes.STORE_POLL.purpose} in rows
    assert main(["settings", "--wakes"]) == 0
    assert "FORECACHE_READER_SCRUB_S" in capsys.readouterr().out
