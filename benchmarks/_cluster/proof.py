"""Days of a project on a cluster whose machines are killed at random, compared with the same days on one machine."""

import random
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from _bank.payments import AS_THEY_HAPPEN, FIRST_NIGHT, START, landing_file, messages_of
from _bank.pipelines.bank import stream_of_payments
from kafka import KafkaBroker

from _cluster.cluster import BUCKET, Cluster, Say
from _cluster.dagster_runs import DagsterRuns
from _cluster.launcher import machine_name
from _cluster.machines import Machine
from forecache.base.errors import InputError
from forecache.base.folders import open_bucket
from forecache.base.settings import Settings
from forecache.lake.query import query
from forecache.stream.kafka import client

TERM_S = 30.0
MARGIN_S = 10.0
"""A step may wait for a killed machine for the term of its lease, and so much longer."""
TRAINED = ("user_spend", "fraud")
_STREAM = "stream"
_VICTIMS = ("night", "run", _STREAM, "webserver", "daemon")
_DAY_LIMIT_S = 3600.0
_FAILURES = 8
_HOLDER = re.compile(r"process \d+ on (\S+) \(")
_LOOK_S = 0.5
TRAINED_EVERY_DAYS = 5


@dataclass(frozen=True)
class Size:
    """What is run.

    Attributes:
        names: Pipelines and real-time models of each night.
        kills: SIGKILLs of machines in all; spread evenly over the days.
        every_s: Mean time between two kills, while kills of the day are left.
    """

    days: int
    names: tuple[str, ...]
    kills: int
    every_s: float

    @property
    def nights(self) -> list[date]:
        return [FIRST_NIGHT + timedelta(days=number) for number in range(self.days)]

    def job(self, night: date) -> str:
        return "nightly" if (night - FIRST_NIGHT).days % TRAINED_EVERY_DAYS else "full"


@dataclass
class Findings:
    """What happened.

    Attributes:
        kills: By kind of machine.
        failures: Last lines of commands that failed without being killed, and how often.
        longest_waits_s: The longest wait for a machine that had been killed, by what waited.
        stuck: Waits for a dead machine that were longer than a lease's term and the margin.
        probes: Requests to the readers, and how many had no answer.
    """

    kills: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    longest_waits_s: dict[str, float] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    probes: int = 0
    unanswered: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        return asdict(self)


# One machine, undisturbed.


def run_undisturbed(cluster: Cluster, home: Path, size: Size, *, say: Say) -> Settings:
    """Do the days on one machine with one folder, one after the other; returns its settings."""
    settings, environment = cluster.settings_alone(home)
    environment["BANK_TOPIC"] = topic = f"{AS_THEY_HAPPEN.topic}-undisturbed"
    client.create_topic(client.client_options(settings), topic, timeout_s=60)
    landing = home / "landing" / AS_THEY_HAPPEN.name
    landing.mkdir(parents=True)

    def forecache(*words: str) -> None:
        done = subprocess.run(
            ["forecache", *words], env=environment, capture_output=True, text=True, check=False, cwd=home
        )
        assert done.returncode == 0, f"forecache {' '.join(words)}: {done.stdout[-2000:]} {done.stderr[-4000:]}"

    for number, night in enumerate(size.nights):
        began = time.monotonic()
        if number:
            send_day(cluster.kafka, topic, night)
            forecache("stream", stream_of_payments.name, "--until-caught-up")
        land_days(night, first=not number, write=lambda name, content: (landing / name).write_bytes(content))
        forecache("run", *size.names, "--job", size.job(night), "--night", str(night))
        say(f"{night}: undisturbed in {time.monotonic() - began:.0f} s")
    return settings


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
    """

    def __init__(self, cluster: Cluster, size: Size, folder: Path, *, seed: int, say: Say) -> None:
        self._cluster, self._size, self._say = cluster, size, say
        self._dice = random.Random(seed)
        self._settings = cluster.settings(folder / "observer")
        self.killed_at: dict[str, float] = {}  # host name to when it was killed
        self.allowed_kills = 0  # kills until now
        self._broken = ""  # why no day can end
        self.stop = threading.Event()
        self.findings = Findings()

    @property
    def settings(self) -> Settings:
        """Settings of a process that looks at the results."""
        return self._settings

    def run(self) -> Findings:
        """Do all days.

        Raises:
            AssertionError: A command went on failing, or a day did not end.
        """
        import obstore

        bucket = open_bucket(f"s3://{BUCKET}/landing/{AS_THEY_HAPPEN.name}", self._settings.storage_options)
        client.create_topic(client.client_options(self._settings), AS_THEY_HAPPEN.topic, timeout_s=60)
        threads = [
            threading.Thread(target=run, daemon=True) for run in (self.kill_at_random, self._replace, self.watch_waits)
        ]
        for thread in threads:
            thread.start()
        probing: threading.Thread | None = None
        try:
            for number, night in enumerate(self._size.nights):
                began = time.monotonic()
                self.allowed_kills = round(self._size.kills * (number + 1) / self._size.days)
                if number:
                    send_day(self._cluster.kafka, AS_THEY_HAPPEN.topic, night)
                    self._await_stream(night)
                land_days(night, first=not number, write=lambda name, data: obstore.put(bucket, name, data))
                self._run_night(night)
                took = time.monotonic() - began
                self.findings.seconds[str(night)] = round(took, 1)
                self._say(f"{night}: done in {took:.0f} s, {self.findings.kills.total()} kills until now")
                if probing is None:
                    if "fraud" in self._size.names:  # it is released now
                        self._start_stream()
                    self._await_readers()
                    probing = threading.Thread(target=self._probe, daemon=True)
                    probing.start()
        finally:
            self.stop.set()
            for thread in [*threads, *([probing] if probing else [])]:
                thread.join(timeout=60)
        return self.findings

    def _run_night(self, night: date) -> None:
        """Let two schedulers run a night at once; each starts it again until it has succeeded."""
        job = self._size.job(night)
        command = ["forecache", "run", *self._size.names, "--job", job, "--night", str(night)]
        pool = ThreadPoolExecutor()
        futures = [pool.submit(self.insist, "night-a", command)]
        if self._cluster.webserver:
            futures.append(pool.submit(self._run_in_dagster, night, job))
        else:
            futures.append(pool.submit(self.insist, "night-b", command))
        pool.shutdown(wait=False)
        for future in futures:
            future.result(_DAY_LIMIT_S)

    def insist(self, kind: str, command: Sequence[str]) -> None:
        """Run a command on a new machine until it succeeds, as a scheduler with retries does."""
        failures = 0
        while True:
            machine = self._start(kind, command)
            code = machine.process.wait()
            if code == 0 or self.stop.is_set():
                return
            if machine.host_name not in self.killed_at:
                failures += 1
                end = _last_lines(machine.log)
                self.findings.failures[f"{kind}: {end}"] += 1
                self._say(f"{machine.host_name} failed: {end}")
                assert failures < _FAILURES, f"{' '.join(command)} failed {failures} times, at last with: {end}"
                time.sleep(2.0)

    def _run_in_dagster(self, night: date, job: str) -> None:
        """Let Dagster run the job of each pipeline, one after the other, until it has succeeded."""
        runs = DagsterRuns(self._cluster.webserver)
        give_up = time.monotonic() + _DAY_LIMIT_S
        for name in self._size.names:
            chosen = job if name in TRAINED else "nightly"
            for run_id in runs.insist(f"{chosen}_{name}", night):
                assert time.monotonic() < give_up, f"Dagster did not finish {chosen}_{name} of {night}."
                if self.stop.is_set():
                    return
                if run_id and f"{machine_name(run_id)}-0" not in self.killed_at:
                    self.findings.failures[f"{chosen}_{name}, run {run_id}"] += 1
                    self._say(f"Dagster's run {run_id} of {chosen}_{name} failed.")

    def _start(self, kind: str, command: Sequence[str], *, is_replaced: bool = False) -> Machine:
        machine = self._cluster.machines.start(kind, command, is_replaced=is_replaced)
        self.findings.starts[kind] += 1
        return machine

    def _start_stream(self) -> None:
        self._start(_STREAM, ["forecache", "stream", stream_of_payments.name], is_replaced=True)

    def _await_stream(self, day: date) -> None:
        """Wait until the stream has committed each payment of the day."""
        table = f"stream_{stream_of_payments.name}"
        expected = len(list(messages_of(day)))
        give_up = time.monotonic() + _DAY_LIMIT_S
        found = -1
        while found < expected:
            assert not self._broken, self._broken
            assert time.monotonic() < give_up, f"{table} has {found} of {expected} rows of {day}."
            time.sleep(2.0)
            with suppress(InputError):  # no table yet
                [row] = query(self._settings, f"select count(*) n from {table} where event_day = '{day}'").to_pylist()
                found = row["n"]

    def _await_readers(self) -> None:
        give_up = time.monotonic() + 300
        while self._ask(0):
            assert time.monotonic() < give_up, f"The readers do not answer: {self._ask(0)}"
            time.sleep(1.0)

    def _ask(self, user: int) -> str:
        """Ask the readers for a user; returns why there is no answer, "" if there is one."""
        try:
            with urllib.request.urlopen(f"{self._cluster.address}/v1/user_risk/{user}", timeout=10) as answer:
                return "" if answer.status == 200 else f"{answer.status}"
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read()[:200]!r}"
        except OSError as error:
            return str(error)

    # Threads.

    def _probe(self) -> None:
        while not self.stop.wait(0.1):
            self.findings.probes += 1
            if reason := self._ask(self._dice.randrange(20)):
                self.findings.unanswered.append(f"{time.strftime('%H:%M:%S')} {reason}")

    def _replace(self) -> None:
        while not self.stop.wait(_LOOK_S):
            for machine in self._cluster.machines.replace_ended():
                self.findings.starts[machine.name.partition("-")[0]] += 1
                before = machine.host_name_before
                if before not in self.killed_at:
                    end = _last_lines(machine.log)
                    self.findings.failures[f"{machine.name}: {end}"] += 1
                    self._say(f"{before} ended by itself: {end}")
                    if self.findings.failures[f"{machine.name}: {end}"] >= _FAILURES:
                        self._broken = f"{machine.name} ended by itself {_FAILURES} times, at last with: {end}"

    def kill_at_random(self) -> None:
        """Kill machines at random moments, readers one at a time."""
        while not self.stop.wait(self._dice.expovariate(1 / self._size.every_s)):
            if self.findings.kills.total() >= self.allowed_kills:
                continue
            running = self._cluster.machines.list_machines(running_only=True)
            victims = [each for each in running if each.name.startswith(_VICTIMS)]
            readers = [each for each in running if each.name.startswith("reader")]
            ports = self._cluster.reader_ports
            if readers and len(readers) == len(ports) and all(map(_is_ready, ports)):
                victims.append(self._dice.choice(readers))
            if not victims:
                continue
            machine = self._dice.choice(victims)
            self.killed_at[machine.host_name] = time.monotonic()
            if self._cluster.machines.kill(machine.name):
                self.findings.kills[machine.name.partition("-")[0]] += 1
            else:
                del self.killed_at[machine.host_name]

    def watch_waits(self) -> None:
        """Look for machines that wait for a machine that was killed, by the last line that they printed."""
        waits: dict[str, tuple[str, float]] = {}
        while not self.stop.wait(_LOOK_S):
            for machine in self._cluster.machines.list_machines(running_only=True):
                last = last_line(machine.log)
                holder = find_awaited_host(last)
                if holder not in self.killed_at:
                    waits.pop(machine.host_name, None)
                    continue
                line, since = waits.setdefault(machine.host_name, (last, time.monotonic()))
                if line != last:
                    waits[machine.host_name] = last, time.monotonic()
                    continue
                waited = time.monotonic() - max(since, self.killed_at[holder])
                longest = self.findings.longest_waits_s
                longest[machine.name] = round(max(longest.get(machine.name, 0.0), waited), 1)
                if waited > TERM_S + MARGIN_S and (stuck := f"{machine.host_name}: {last}") not in self.findings.stuck:
                    self.findings.stuck.append(stuck)
                    self._say(f"{machine.host_name} waits for a dead machine for {waited:.0f} s: {last}")


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def find_awaited_host(line: str) -> str:
    """Host name of the process that a line of a waiting machine names; "" if it names none."""
    found = _HOLDER.search(line)
    return found[1] if found else ""


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    with open(log, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 2000))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _last_lines(log: Path) -> str:
    """The end of a log in one line, without what differs from run to run."""
    text = log.read_text(errors="replace")[-3000:]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("[")]
    return re.sub(r"[0-9a-f]{8,}|\d{4,}", "#", " | ".join(lines[-2:]))[-400:]
