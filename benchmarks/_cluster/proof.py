"""Days of a project on a cluster whose machines are killed at random, compared with the same days on one machine."""

import random
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from _bank.payments import AS_THEY_HAPPEN, FIRST_NIGHT, START, landing_file, messages_of
from _bank.pipelines.bank import stream_of_payments
from kafka import KafkaBroker

from _cluster.asking import Requests
from _cluster.cluster import BUCKET, Cluster, Say
from _cluster.machines import Machine
from _cluster.waits import Waits
from _cluster.worker import Task
from forecache.base.errors import InputError
from forecache.base.folders import open_bucket
from forecache.base.settings import Settings
from forecache.lake.query import query
from forecache.realtime.release.lake_state import read_lake_state
from forecache.stream.kafka import client

MODEL = "fraud"
_VICTIMS = ("night", "stream", "rollouts")
_DAY_LIMIT_S = 3600.0
_FAILURES = 8
_LOOK_S = 1.0
_KILLS_OF_THE_FIRST_DAY = 4
_SCHEDULERS, _CONTROLLERS = ("night-a", "night-b"), ("rollouts-a", "rollouts-b")
_ENGINES = ("stream-a", "stream-b")  # one stands by


@dataclass(frozen=True)
class Size:
    """What is run.

    Attributes:
        names: Pipelines and real-time models of each night.
        kills: SIGKILLs of machines in all: few on the first day, on which only schedulers work, then evenly.
        every_s: Mean time between two kills, while kills of the day are left.
        trained_every_days: Models are trained on the first day, and again after so many; the real-time model's second
            release and each later one takes over by a rollout.
        started_s: Seconds that a machine may have to start before it can be killed, a scheduler with Spark three times
            as many: killing all of them before they do anything would only prove that they start.
    """

    days: int
    names: tuple[str, ...]
    kills: int
    every_s: float
    trained_every_days: int
    started_s: float = 10.0

    @property
    def nights(self) -> list[date]:
        return [FIRST_NIGHT + timedelta(days=number) for number in range(self.days)]

    def job(self, night: date) -> str:
        return "nightly" if (night - FIRST_NIGHT).days % self.trained_every_days else "full"

    def allow_kills(self, number: int) -> int:
        """Kills until the end of a day."""
        first = min(_KILLS_OF_THE_FIRST_DAY, self.kills)
        return first + round((self.kills - first) * number / max(1, self.days - 1))

    def has_rollout(self, night: date) -> bool:
        return MODEL in self.names and night != FIRST_NIGHT and self.job(night) == "full"


@dataclass
class Findings:
    """What happened.

    Attributes:
        kills, starts: By kind of machine.
        failures: Last lines of commands that failed without being killed, and how often.
        rollouts: Steps of the rollout of each day that had one.
        seconds: Of each day, of what the stream needed for it, and of each rollout.
    """

    requests: Requests
    kills: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    waits: Waits = field(default_factory=Waits)
    rollouts: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """What happened, as JSON."""
        waits = self.waits
        return {
            "kills": self.kills.total(), "kills_by_kind": dict(self.kills), "starts_by_kind": dict(self.starts),
            "failures": dict(self.failures), "requests": self.requests.number, "unanswered": self.requests.unanswered,
            "answers_of_the_model": len(self.requests.answered_ids), "rollouts": self.rollouts, "stuck": waits.stuck,
            "longest_waits_for_killed_machines_s": waits.longest_s,
            "longest_waits_for_nobody_named_s": waits.longest_unnamed_s, "seconds": self.seconds,
        }  # fmt: skip


# One machine, undisturbed.


def run_undisturbed(cluster: Cluster, home: Path, size: Size, nights: Iterable[date], *, say: Say) -> Settings:
    """Do days on one machine with one folder, one after the other; returns its settings."""
    settings, environment = cluster.settings_alone(home)
    environment["BANK_TOPIC"] = topic = f"{AS_THEY_HAPPEN.topic}-undisturbed"
    client.create_topic(client.client_options(settings), topic, timeout_s=60)
    landing = home / "landing" / AS_THEY_HAPPEN.name
    landing.mkdir(parents=True)

    task, log = Task(home / "task"), home / "log"
    with open(log, "wb") as output:
        worker = subprocess.Popen(
            worker_command(task), env=environment, stdout=output, stderr=output, cwd=home, start_new_session=True
        )

    def forecache(*words: str) -> None:
        task.assign(words)
        while (code := task.exit_code) is None:
            assert worker.poll() is None, f"The worker of the undisturbed days ended: {log.read_text()[-2000:]}"
            time.sleep(_LOOK_S)
        assert code == 0, f"forecache {' '.join(words)}: {log.read_text()[-2000:]}"

    for number, night in enumerate(nights):
        began = time.monotonic()
        if number:
            send_day(cluster.kafka, topic, night)
            forecache("stream", stream_of_payments.name, "--until-caught-up")
        land_days(night, first=not number, write=lambda name, content: (landing / name).write_bytes(content))
        forecache("run", *size.names, "--job", size.job(night), "--date", str(night))
        if size.has_rollout(night):
            forecache("release", "finish", MODEL)
        say(f"{night}: undisturbed in {time.monotonic() - began:.0f} s")
    worker.kill()
    worker.wait()
    return settings


def worker_command(task: Task) -> list[str]:
    return [sys.executable, "-m", "_cluster.worker", str(task.file)]


def land_days(night: date, *, first: bool, write: Callable[[str, bytes], object]) -> None:
    """Write the landing file of a day; with `first` also those of the history."""
    day = START if first else night
    while day <= night:
        write(f"{day}.csv", landing_file(day))
        day += timedelta(days=1)


def send_day(kafka: KafkaBroker, topic: str, day: date) -> None:
    """Send the messages of a day, the first of them twice, as producers do that try again."""
    values = list(messages_of(day))
    kafka.send(topic, [*values, *values[:3]])


# Many machines, killed at random.


class Chaos:
    """The days on the machines of a cluster.

    Attributes:
        killed_at: When a machine was killed, by its host name, in seconds of this process's clock.
        allowed_kills: Kills until the end of the day that is run.
        tasks: Of the workers of the schedulers, by the name of their machines.
    """

    def __init__(self, cluster: Cluster, size: Size, folder: Path, *, seed: int, say: Say) -> None:
        self._cluster, self._size, self._say = cluster, size, say
        self._dice = random.Random(seed)
        self._settings = cluster.settings(folder / "observer")
        self.tasks = {name: Task(folder / f"{name}.task") for name in _SCHEDULERS}
        self.killed_at: dict[str, float] = {}
        self.allowed_kills = 0
        self._broken = ""  # why no day can end
        self.stop = threading.Event()
        self.findings = Findings(Requests(cluster.address, MODEL if MODEL in size.names else ""))

    @property
    def settings(self) -> Settings:
        """Settings of a process that looks at the results."""
        return self._settings

    def run(self, begun: "SimpleQueue[date | None]", *, until: float) -> list[date]:
        """Do all days, or those that begin before a time of this process's clock; returns them.

        Each is put into the queue `begun`, and None at the end.

        Raises:
            AssertionError: A command went on failing, or a day did not end.
        """
        import obstore

        bucket = open_bucket(f"s3://{BUCKET}/landing/{AS_THEY_HAPPEN.name}", self._settings.storage_options)
        client.create_topic(client.client_options(self._settings), AS_THEY_HAPPEN.topic, timeout_s=60)
        threads = [
            threading.Thread(target=run, daemon=True)
            for run in (self.kill_at_random, self.replace_ended, self._watch_waits)
        ]
        for thread in threads:
            thread.start()
        for name, task in self.tasks.items():
            self._start(name, worker_command(task))
        done = []
        try:
            for number, night in enumerate(self._size.nights):
                if (began := time.monotonic()) > until:
                    break
                begun.put(night)
                self.allowed_kills = self._size.allow_kills(number)
                if number:
                    send_day(self._cluster.kafka, AS_THEY_HAPPEN.topic, night)
                    self._await_stream(night)
                land_days(night, first=not number, write=lambda name, data: obstore.put(bucket, name, data))
                self._run_night(night)
                if self._size.has_rollout(night):
                    self._await_rollout(night)
                self.findings.seconds[str(night)] = round(time.monotonic() - began, 1)
                self._say(
                    f"{night}: done in {time.monotonic() - began:.0f} s, {self.findings.kills.total()} kills until now"
                )
                done.append(night)
                if not number:
                    threads += self._start_services()
        finally:
            begun.put(None)
            self.stop.set()
            for thread in threads:
                thread.join(timeout=60)
        return done

    def _start_services(self) -> list[threading.Thread]:
        """Start what works all the time once the first night is there: stream, controllers, requests to readers."""
        if MODEL in self._size.names:
            for name in _ENGINES:
                self._start(name, ["forecache", "stream", stream_of_payments.name])
            for name in _CONTROLLERS:
                self._start(name, ["forecache", "release", "rollouts", "--every", "3"])
        give_up = time.monotonic() + _DAY_LIMIT_S
        while reason := self.findings.requests.find_missing(self._cluster.reader_ports):
            assert time.monotonic() < give_up, f"The readers do not answer: {reason}"
            time.sleep(_LOOK_S)
        asking = threading.Thread(target=self.findings.requests.run, args=(self.stop,), daemon=True)
        asking.start()
        return [asking]

    def _run_night(self, night: date) -> None:
        """Let two schedulers run a night at once; each tries it again until it has succeeded."""
        words = ["run", *self._size.names, "--job", self._size.job(night), "--date", str(night)]
        for name in _SCHEDULERS:
            self.tasks[name].assign(words)
        give_up = time.monotonic() + _DAY_LIMIT_S
        while any(self.try_again(name, words) for name in _SCHEDULERS):
            assert not self._broken, self._broken
            assert time.monotonic() < give_up, f"{night} does not end."
            time.sleep(_LOOK_S)

    def try_again(self, name: str, words: Sequence[str]) -> bool:
        """Assign a command again if it has failed, as a scheduler with retries does; False once it has succeeded."""
        code = self.tasks[name].exit_code
        if code:
            self._report_failure(name, self._cluster.machines.find(name).read_log())
            self.tasks[name].assign(words)
        return code != 0

    def _report_failure(self, name: str, log: str) -> None:
        end = _last_lines(log)
        self.findings.failures[f"{name}: {end}"] += 1
        self._say(f"{name} failed: {end}")
        if self.findings.failures[f"{name}: {end}"] >= _FAILURES:
            self._broken = f"{name} failed {_FAILURES} times, at last with: {end}"

    def _start(self, name: str, command: Sequence[str]) -> None:
        self._cluster.machines.start(name, command, is_replaced=True)
        self.findings.starts[_kind(name)] += 1

    def _await_rollout(self, night: date) -> None:
        """Wait until the rollout that the night began is over; the stream then starts with the new release."""
        began = time.monotonic()
        while True:
            assert not self._broken, self._broken
            assert time.monotonic() < began + _DAY_LIMIT_S, f"The rollout of {night} is not over."
            state = read_lake_state(self._settings, MODEL)
            if state is not None and state.rollout is not None and state.running is None:
                break
            time.sleep(2.0)
        steps = [f"{step.stage} {step.share:g} {step.verdict}" for step in state.rollout.steps]
        self.findings.rollouts[str(night)] = [*steps, f"{state.rollout.stage}: release {state.pointer.current}"]
        self.findings.seconds[f"rollout of {night}"] = round(time.monotonic() - began, 1)
        for name in _ENGINES:
            self._kill(name)

    def _await_stream(self, day: date) -> None:
        """Wait until the stream has committed each payment of the day."""
        table = f"stream_{stream_of_payments.name}"
        expected = len(list(messages_of(day)))
        began, found = time.monotonic(), -1
        while found < expected:
            assert not self._broken, self._broken
            assert time.monotonic() < began + _DAY_LIMIT_S, f"{table} has {found} of {expected} rows of {day}."
            time.sleep(2.0)
            with suppress(InputError):  # no table yet
                [row] = query(self._settings, f"select count(*) n from {table} where event_day = '{day}'").to_pylist()
                found = row["n"]
        self.findings.seconds[f"stream of {day}"] = round(time.monotonic() - began, 1)

    # Threads.

    def replace_ended(self) -> None:
        """Start machines again that have ended."""
        while not self.stop.wait(_LOOK_S):
            for machine in self._cluster.machines.replace_ended():
                self.findings.starts[_kind(machine.name)] += 1
                if machine.host_name_before not in self.killed_at:
                    self._report_failure(machine.name, machine.log.read_text(errors="replace")[: machine.log_offset])

    def kill_at_random(self) -> None:
        """Kill machines that work at random moments: readers one at a time, schedulers half as often as others."""
        while not self.stop.wait(self._dice.expovariate(1 / self._size.every_s)):
            if self.findings.kills.total() >= self.allowed_kills:
                continue
            running = self._cluster.machines.list_machines(running_only=True)
            victims = [each.name for each in running if each.name.startswith(_VICTIMS) and self._has_started(each)]
            readers = [each.name for each in running if each.name.startswith("reader")]
            if len(readers) == len(self._cluster.reader_ports) and all(map(_is_ready, self._cluster.reader_ports)):
                victims += readers
            victims += [name for name in victims if name not in _SCHEDULERS]
            if victims:
                self._kill(self._dice.choice(victims))

    def _has_started(self, machine: Machine) -> bool:
        least_s = self._size.started_s * (3 if machine.name in _SCHEDULERS else 1)
        return time.time() - machine.started_at > least_s

    def _kill(self, name: str) -> None:
        machine = self._cluster.machines.find(name)
        self.killed_at[machine.host_name] = time.monotonic()
        if self._cluster.machines.kill(name):
            self.findings.kills[_kind(name)] += 1
        else:
            del self.killed_at[machine.host_name]

    def _watch_waits(self) -> None:
        told: set[str] = set()
        while not self.stop.wait(_LOOK_S):
            running = self._cluster.machines.list_machines(running_only=True)
            # A stream waits for messages, a controller for its next look.
            nights = [each for each in running if each.name in _SCHEDULERS and self.tasks[each.name].exit_code is None]
            self.findings.waits.look(nights, self.killed_at)
            for stuck in self.findings.waits.stuck.keys() - told:
                told.add(stuck)
                self._say(f"Stuck: {stuck}")


def _kind(name: str) -> str:
    return name.partition("-")[0]


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _last_lines(text: str) -> str:
    """The end of a log in one line, without what differs from run to run."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("[")]
    return re.sub(r"[0-9a-f]{8,}|\d{4,}", "#", " | ".join(lines[-2:]))[-400:]
