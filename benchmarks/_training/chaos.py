"""Kill a training run at random points and compare it with one that was left alone: weights, samples, what was lost."""

import json
import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from forecache.base.settings import Settings
from forecache.models.training.spec import HEARTBEAT_FILE, METRICS_FILE, RESULT_FILE, TrainingSpec
from forecache.plugins.torch.launch import command, worker_environment

Kind = Literal["worker", "all", "terminate"]
KINDS: tuple[Kind, ...] = ("worker", "worker", "all", "terminate")
_EARLY_SHARE, _EARLY_S = 0.15, 3.0
_MOST_STEPS = 150
_LONGEST_WAIT_S = 120.0
_LAYOUT = struct.Struct("<qd")  # of forecache.models.training.spec, which would load torch


@dataclass(frozen=True)
class ChaosReport:
    """What the kills cost.

    Attributes:
        kills: By kind: "worker" (SIGKILL of one), "all" (SIGKILL of all and their agent), "terminate" (SIGTERM).
        steps: Steps of the whole run; `steps_repeated` of them were done again after a kill.
        seconds: Wall time, `seconds_alone` of the run without kills where it was run here.
    """

    kills: dict[str, int]
    steps: int
    steps_repeated: int
    seconds: float
    seconds_alone: float
    equal_weights: bool
    equal_samples: bool
    equal_history: bool


def run_chaos(
    settings: Settings,
    spec: TrainingSpec,
    folder: Path,
    *,
    kills: int,
    seed: int,
    alone: TrainingSpec | None = None,
) -> ChaosReport:
    """Run the specification in `folder`/killed, kill it `kills` times, and compare it with one that is left alone.

    Args:
        alone: A finished run of the same; None: it is run first, in `folder`/alone.
    """
    killed = replace(spec, run_dir=str(folder / "killed"))
    started = time.monotonic()
    if alone is None:
        alone = replace(spec, run_dir=str(folder / "alone"))
        _finish(settings, alone)
    seconds_alone = time.monotonic() - started
    started = time.monotonic()
    done = _kill_repeatedly(settings, killed, kills, random.Random(seed))
    _finish(settings, killed)
    seconds = time.monotonic() - started
    expected, actual = _result(alone), _result(killed)
    starts = [event for event in _events(killed) if event["event"] == "start"]
    return ChaosReport(
        kills={kind: done.count(kind) for kind in sorted(set(done))},
        steps=expected["steps"],
        steps_repeated=sum(max(0, event["reached_step"] - event["step"]) for event in starts),
        seconds=seconds,
        seconds_alone=seconds_alone,
        equal_weights=expected["weights_digest"] == actual["weights_digest"],
        equal_samples=expected["sample_digests"] == actual["sample_digests"],
        equal_history=_losses(expected) == _losses(actual),
    )


def _kill_repeatedly(settings: Settings, spec: TrainingSpec, kills: int, rng: random.Random) -> list[Kind]:
    done: list[Kind] = []
    order: list[Kind] = []
    process, seen = _launch(settings, spec), 0
    try:
        while len(done) < kills:
            if process.poll() is not None:
                assert not (spec.folder / RESULT_FILE).exists(), f"training ended after {len(done)} kills: too short"
                process = _launch(settings, spec)
            if rng.random() < _EARLY_SHARE:
                time.sleep(rng.uniform(0, _EARLY_S))
            else:
                _await_steps(spec, process, seen, rng.randint(0, _MOST_STEPS))
            # Each as often as it is there, in an order of chance; one that found no workers comes again.
            order = order or rng.sample(KINDS, len(KINDS))
            seen = _starts(spec)
            if _kill(process, order[-1], rng):
                done.append(order.pop())
    finally:
        _kill(process, "all", rng)
    return done


def _kill(process: "subprocess.Popen[bytes]", kind: Kind, rng: random.Random) -> bool:
    """Whether there was something to kill; "all" and "terminate" return once everything has ended."""
    if process.poll() is not None:
        return False
    if kind == "worker":
        workers = workers_of(psutil.Process(process.pid))
        return bool(workers) and _end(rng.choice(workers))
    family = psutil.Process(process.pid).children(recursive=True)
    if kind == "terminate":
        process.send_signal(signal.SIGTERM)
    else:
        process.kill()
        for victim in family:
            _end(victim)
    process.wait(120)
    psutil.wait_procs(family, timeout=120)
    return True


def _end(victim: psutil.Process) -> bool:
    """Whether it was there to be killed; it may have ended with another one."""
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def workers_of(agent: psutil.Process) -> list[psutil.Process]:
    """The workers of torchrun's agent: children of the child that they are forked from; none once it ended."""
    try:
        return [worker for child in agent.children() for worker in child.children()]
    except psutil.NoSuchProcess:
        return []


def _starts(spec: TrainingSpec) -> int:
    return sum(event["event"] == "start" for event in _events(spec))


def _await_steps(spec: TrainingSpec, process: "subprocess.Popen[bytes]", seen: int, steps: int) -> None:
    """Wait for the start after `seen` of them, and some steps from there; returns at once where the group has ended."""
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while process.poll() is None and not _has_done(spec, seen, steps):
        assert time.monotonic() < deadline, f"no progress within {_LONGEST_WAIT_S} s"
        time.sleep(0.01)


def _has_done(spec: TrainingSpec, seen: int, steps: int) -> bool:
    starts = [event for event in _events(spec) if event["event"] == "start"]
    if len(starts) <= seen:
        return False
    reached, _ = _LAYOUT.unpack((spec.folder / HEARTBEAT_FILE).read_bytes())
    return bool(reached >= starts[-1]["step"] + steps)


def _finish(settings: Settings, spec: TrainingSpec) -> None:
    process = _launch(settings, spec)
    process.wait()
    assert process.returncode == 0, f"see {spec.folder / 'chaos.log'}"


def _launch(settings: Settings, spec: TrainingSpec) -> "subprocess.Popen[bytes]":
    spec.folder.mkdir(parents=True, exist_ok=True)
    spec.save()
    with (spec.folder / "chaos.log").open("ab") as log:
        return subprocess.Popen(command(settings, spec), stdout=log, stderr=log, env=worker_environment(settings))


def _events(spec: TrainingSpec) -> Iterator[dict[str, Any]]:
    path = spec.folder / METRICS_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # a line cut short by SIGKILL


def _result(spec: TrainingSpec) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((spec.folder / RESULT_FILE).read_text())
    return result


def _losses(result: dict[str, Any]) -> list[tuple[float, float]]:
    return [(epoch["train_loss"], epoch["validation_loss"]) for epoch in result["history"]]
