"""The proof that a store in a bucket has one history: publishers and rollbacks at once, behind a server that fails.

Each is a process with a home of its own, empty or of an earlier round, over one lake and one remote. Some are killed,
and some stand still for longer than their lease's term.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

from deltalake import DeltaTable
from fault_proxy import Faults, fault_proxy
from store_services import minio_server
from store_tables import OPEN_RULES, churn, predictions, scores, upsert, write_night

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings, load_settings
from forecache.kit import lease
from forecache.kit.versioned.transfer import read_content
from forecache.serve.store import Store, open_remote, open_store, publish, pull
from forecache.serve.store import remote as remote_files
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.remote_store import RemoteStore

RULES = replace(OPEN_RULES, keep=3, max_segments=4)
PUBLISHERS, ROLLBACKS = 8, 4
ROWS = 200
TERM_S = 5.0
REMOTE = "s3://cloud/store"
_PRELOAD = ["forecache.serve.store.publishing.publish", "obstore.store", "deltalake", "store_races"]


def act(settings: dict[str, Any], kind: str, number: int, seed: int, outcome: str) -> None:
    """Publish or roll back in this process; write what became of it to a file, unless it is killed."""
    _shorten_terms()
    moves = _record_moves()
    current, dice = load_settings(**settings), random.Random(seed)
    result: dict[str, Any] = {"kind": kind}
    try:
        if kind == "publish":
            _change_rows(current, number, dice)
            found = publish(current, churn(rules=RULES), full=dice.random() < 0.2)
            result |= {"version": found.details["version"], "skipped": found.skipped, "how": found.details["kind"]}
        else:
            store = open_store(current, "churn")
            result["version"] = store.rollback().version
            store.sync()  # as the command does: if the remote was away, the rollback is one of this machine alone
        result["moves"] = moves[-1] if moves else ""
    except ForecacheError as error:
        result |= {"error": type(error).__name__, "message": error.message}
    unfinished = Path(f"{outcome}.unfinished")
    unfinished.write_text(json.dumps(result))
    unfinished.rename(outcome)


def _record_moves() -> list[str]:
    """Have this process record the moves of each pointer that it writes to the remote; returns the list."""
    made, swap = list[str](), RemoteStore._swap

    def swap_and_record(self: RemoteStore, held: Any, pointer: Pointer) -> None:
        swap(self, held, pointer)
        made.append(pointer.moves)

    RemoteStore._swap = swap_and_record  # type: ignore[method-assign]
    return made


def _shorten_terms() -> None:
    """Let each process be one of another machine, whose death shows only when its term is over."""
    lease.LEASE = replace(lease.LEASE, every_s=0.3)
    lease.TERM_S, lease.MARGIN_S, lease._POLL_S = TERM_S, 1.0, 0.05
    found = lease.this_process
    lease.this_process = lambda *of: replace(found(*of), machine="")
    remote_files.RETIRED_S = 5.0


def _change_rows(settings: Settings, number: int, dice: random.Random) -> None:
    changed = {f"{dice.randrange(ROWS):05d}": dice.random() for _ in range(3)}
    for _ in range(50):
        try:
            upsert(settings, predictions(changed, run_id=f"run-{number}"))
            return
        except Exception:  # noqa: BLE001  # another process committed meanwhile
            time.sleep(dice.uniform(0.0, 0.1))


@dataclass
class _History:
    """The states of the remote that were seen, as one history."""

    moves: list[str] = field(default_factory=list)
    bad: set[int] = field(default_factory=set)
    published: dict[int, str] = field(default_factory=dict)  # content hashes

    def add(self, pointer: Pointer) -> None:
        moves = pointer.moves.split()
        if self.moves:
            assert self.moves[-1] in moves, "the pointer does not descend from a state that was seen"
            moves = moves[moves.index(self.moves[-1]) + 1 :]
        self.moves += moves
        assert len(set(self.moves)) == len(self.moves)
        assert pointer.serving not in self.bad, f"version {pointer.serving} is served again after it was quarantined"
        assert str(pointer.serving) not in pointer.bad, f"version {pointer.serving} is served and quarantined"
        self.bad |= {int(number) for number in pointer.bad}

    def add_content(self, number: int, content_hash: str) -> None:
        assert self.published.setdefault(number, content_hash) == content_hash, f"version {number} was used twice"


def prove(
    folder: Path, *, rounds: int, seed: int, limit_s: float, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Let publishers and rollbacks change one store at once, round after round; returns figures.

    Raises:
        AssertionError: A change that was acknowledged is lost, a number has two contents, a quarantined version is
            served, a version that is retained cannot be read, or a replica is stuck.
    """
    began, dice, counts = time.monotonic(), random.Random(seed), Counter[str]()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    with patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parent)):
        forkserver.ensure_running()
    with ExitStack() as stack:
        options = stack.enter_context(minio_server(folder / "minio", "cloud"))
        faults = Faults("other", busy=0.01, reset=0.01, lost=0.02)
        proxy = stack.enter_context(fault_proxy(options["AWS_ENDPOINT_URL"], faults, seed=seed))
        failing = {**options, "AWS_ENDPOINT_URL": proxy.address}
        given: dict[str, Any] = {"lake": str(folder / "lake"), "store_remote": REMOTE}
        direct = load_settings(home=folder / "looks", storage_options=options, **given)
        write_night(direct, predictions(scores(ROWS)))
        publish(direct, churn(rules=RULES))
        remote, history = open_remote(REMOTE, options), _History()
        replica = Store(folder / "replica" / "churn")
        for number in range(rounds):
            actors = []
            for each in range(PUBLISHERS + ROLLBACKS):
                home, outcome = folder / f"home-{each}", folder / f"outcome-{number}-{each}"
                if dice.random() < 0.5:
                    shutil.rmtree(home, ignore_errors=True)
                settings = {"home": str(home), "storage_options": failing, **given}
                kind = "publish" if each < PUBLISHERS else "rollback"
                actors.append((context.Process(
                    target=act, args=(settings, kind, number, dice.randrange(1 << 30), str(outcome)), daemon=True,
                ), outcome))  # fmt: skip
            for process, _ in actors:
                process.start()
            for process, _ in dice.sample(actors, dice.randint(1, 3)):
                time.sleep(dice.uniform(0.0, 0.5))
                if process.is_alive():
                    os.kill(process.pid, signal.SIGKILL)
                    counts["killed"] += 1
            paused = dice.choice(actors)[0] if dice.random() < 0.2 else None
            if paused is not None and paused.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(paused.pid, signal.SIGSTOP)
                    counts["paused"] += 1
                    time.sleep(TERM_S + 1.0)
                    os.kill(paused.pid, signal.SIGCONT)
            while any(process.is_alive() for process, _ in actors):
                assert time.monotonic() - began < limit_s, f"round {number} has not ended"
                _look(remote, history, counts)
                time.sleep(0.1)
            done = [json.loads(outcome.read_text()) for _, outcome in actors if outcome.exists()]
            pointer = _look(remote, history, counts)
            counts.update(_describe(each) for each in done)
            _require_all(done, history)
            counts["versions read"] += _require_readable(direct, folder, remote, replica, pointer, history)
            if number % 5 == 4:
                say(f"{number + 1} rounds in {time.monotonic() - began:.0f} s: {dict(counts)}")
        injected = proxy.injected("other")
    return {
        "rounds": rounds, "moves": len(history.moves), "last_version": pointer.last, **counts,
        "faults": injected, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _describe(done: dict[str, Any]) -> str:
    if "error" in done:
        return f"{done['kind']}: {done['error']}"
    return f"{done['kind']}: {'skipped' if done.get('skipped') else done.get('how', 'done')}"


def _look(remote: Any, history: _History, counts: Counter[str]) -> Pointer:
    content = read_content(remote, "churn/CURRENT")
    assert content is not None
    pointer = Pointer.from_json(content)
    history.add(pointer)
    counts["looks"] += 1
    return pointer


def _require_all(done: list[dict[str, Any]], history: _History) -> None:
    """Every change that was acknowledged is in the history, and no number was given to two."""
    for each in done:
        if "error" not in each and not each.get("skipped"):
            made = each["moves"].split()
            assert made, f"{each} moved nothing"
            assert made[-1] in history.moves, f"{each} is lost"
    numbers = [each["version"] for each in done if each["kind"] == "publish" and not each.get("skipped", True)]
    assert len(set(numbers)) == len(numbers), f"numbers were given twice: {sorted(numbers)}"


def _require_readable(
    settings: Settings, folder: Path, remote: Any, replica: Store, pointer: Pointer, history: _History
) -> int:
    """Every retained version is read from an empty disk and has the rows of the lake; replicas follow at once."""
    looked, empty = folder / "looked", Store(folder / "empty" / "churn")
    shutil.rmtree(looked, ignore_errors=True)
    shutil.rmtree(empty.layout.root, ignore_errors=True)
    store = RemoteStore(looked / "churn", lambda **_: remote)
    with store.look():
        numbers = store.version_numbers()
        assert numbers == sorted({*pointer.retained_versions, *([pointer.serving] if pointer.serving else [])})
        for number in numbers:
            store.fetch(number)
            manifest = store.manifest(number)
            history.add_content(number, manifest.content_hash)
            with store.snapshot(number) as snapshot:
                found = {key.decode(): json.loads(entry.partition(b"\n")[0]) for key, entry in snapshot.items()}
            assert found == _rows_at(settings, manifest.source.delta_version), f"version {number} has other rows"
    for each in (replica, empty):
        assert pull(each, remote)["version"] == pointer.serving
        with each.snapshot() as snapshot:
            assert snapshot.manifest.version == pointer.serving
    return len(numbers)


def _rows_at(settings: Settings, version: int) -> dict[str, dict[str, Any]]:
    table = DeltaTable(settings.table_uri("predictions_churn"), version=version).to_pyarrow_table()
    columns = ["churn_probability", "risk_segment"]
    rows = table.select(["customer_id", *columns]).to_pylist()
    return {row["customer_id"]: {name: row[name] for name in columns} for row in rows}
