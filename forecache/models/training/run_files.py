"""The files of a training that every machine finds: beside its checkpoints, if these are in a bucket or another folder.

While a training runs, its specification, its MLflow run and the events that its cost record is made from lie there
under their own names; the holder of its lease writes them. The files of a training that has ended have their checksum
in their name; `trained.json` lists them and is written last. Without such a place all files stay in the run's folder.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from forecache.base.errors import ConflictError, ForecacheError
from forecache.base.files import replace_file, write_durably
from forecache.base.folders import Folder
from forecache.base.settings import Settings
from forecache.base.steps import training_step
from forecache.kit.lease import Lease, hold_lease
from forecache.models.tracking.runs import RUN_FILE
from forecache.models.training.process import LEASE_NAME, read_events
from forecache.models.training.spec import (
    ERROR_FILE,
    HEARTBEAT_FILE,
    METRICS_FILE,
    MODEL_FILES,
    REFIT,
    RESULT_FILE,
    SPEC_FILE,
    TORCH_FILE,
    TrainingSpec,
    open_run_files,
    training_root,
)

TRAINED_FILE = "trained.json"
NODES_FILE = "nodes.json"
"""The run of a pipeline that further nodes may join, and its state, in the pipeline's folder."""
_REFITTED = tuple(f"{REFIT}/{name}" for name in (*MODEL_FILES.values(), TORCH_FILE))
RESULT_FILES = (*MODEL_FILES.values(), *_REFITTED, TORCH_FILE, METRICS_FILE, RUN_FILE, SPEC_FILE, RESULT_FILE)
_KEPT_FOLDERS = ("trained", ".leases")
_SHARE_EVERY_S = 10.0


def open_training_root(settings: Settings) -> Folder:
    """The folder of all trainings that every machine finds; without a bucket or a setting that of the home."""
    return open_run_files(settings, training_root(settings))


def remove_old_checkpoints(settings: Settings, *, older_than: timedelta, dry_run: bool = False) -> int:
    """Remove the checkpoints of trainings that ended longer ago, and whose result all machines find; returns the number
    of their files. Those of a run that a process works on stay."""
    root, num_files = open_training_root(settings), 0
    names = root.names()
    for ended in (name for name in names if name.rpartition("/")[2] == TRAINED_FILE):
        run = ended.removesuffix(TRAINED_FILE)
        own = [name for name in names if name.startswith(run) and "/" in name.removeprefix(run)]
        checkpoints = [name for name in own if name.removeprefix(run).split("/")[0] not in _KEPT_FOLDERS]
        found = root.read(ended) if checkpoints else None
        if found is None or time.time() - json.loads(found[0]).get("ended_at", 0.0) < older_than.total_seconds():
            continue
        place = open_run_files(settings, f"{training_root(settings)}/{run.rstrip('/')}")
        with suppress(ConflictError):
            with nullcontext() if dry_run else hold_lease(place, LEASE_NAME, action="removing checkpoints", wait_s=0.0):
                if not dry_run:
                    root.delete(checkpoints)
            num_files += len(checkpoints)
    return num_files


@dataclass
class RunFiles:
    """The files of one run: in its folder on this machine, and where all machines find them."""

    settings: Settings
    spec: TrainingSpec
    _share_at: float = field(default=0.0, init=False)

    @property
    def folder(self) -> Path:
        return self.spec.folder

    @property
    def shared_folder(self) -> Folder | None:
        """The place where all machines find the run; None if that is its folder."""
        return open_run_files(self.settings, self.spec.checkpoints) if self.spec.checkpoints else None

    def fetch_result(self) -> bool:
        """Tell if the training has ended; the files that another machine left of it are copied into its folder."""
        shared = self.shared_folder
        # A result names its MLflow run, which no other machine finds in the database of a home.
        if shared is None or not self.settings.mlflow_uri:
            return (self.folder / RESULT_FILE).is_file()
        found = shared.read(TRAINED_FILE)
        digests: Mapping[str, str] = json.loads(found[0])["files"] if found else {}
        return bool(digests) and all(self._fetch(shared, name, digest) for name, digest in digests.items())

    def _fetch(self, shared: Folder, name: str, digest: str) -> bool:
        """Copy a file of the result, unless it is here; False if it is missing or damaged."""
        path = self.folder / name
        if path.is_file() and (name == SPEC_FILE or _digest(path) == digest):
            return True
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replace_file(path) as temporary:
                with temporary.open("wb") as file:
                    for chunk in shared.chunks(_shared_name(name, digest), 0):
                        file.write(chunk)
                if _digest(temporary) != digest:
                    raise FileNotFoundError
        except FileNotFoundError:
            return False
        return True

    def share_result(self) -> None:
        """Copy the files of the ended training to where all machines find them."""
        shared = self.shared_folder
        if shared is None:
            return
        digests = {name: _digest(self.folder / name) for name in RESULT_FILES if (self.folder / name).is_file()}
        for name, digest in digests.items():
            if shared.size(_shared_name(name, digest)) is None:
                shared.upload(self.folder / name, _shared_name(name, digest))
        training_step("files shared")
        shared.write(TRAINED_FILE, json.dumps({"files": digests, "ended_at": time.time()}, indent=2).encode())
        training_step("result shared")

    def fetch_progress(self) -> None:
        """Copy what another machine left of the interrupted training into its folder, if it got further than this one:
        its MLflow run, and the events for its cost record."""
        shared = self.shared_folder
        if shared is None or (self.folder / RESULT_FILE).is_file():
            return
        names = (RUN_FILE, HEARTBEAT_FILE, METRICS_FILE)
        there = {name: found[0] for name in names if (found := shared.read(name)) is not None}
        if self.settings.mlflow_uri and RUN_FILE in there:
            write_durably(self.folder / RUN_FILE, there[RUN_FILE])
        lines = there.get(METRICS_FILE, b"").splitlines()
        if _progress(map(json.loads, lines)) > _progress(read_events(self.folder / METRICS_FILE)):
            for name in (HEARTBEAT_FILE, METRICS_FILE):
                write_durably(self.folder / name, there.get(name, b""))

    def share_start(self) -> None:
        """Write the specification and the MLflow run of a training that begins, or begins again."""
        shared = self.shared_folder
        if shared is not None:
            shared.delete([ERROR_FILE])
            shared.write(SPEC_FILE, self.spec.to_json().encode())
            shared.write(RUN_FILE, (self.folder / RUN_FILE).read_bytes())

    def share_progress(self, *, at_once: bool = False) -> str:
        """Write the events that the cost record needs and the heartbeat, every ten seconds or `at_once`; and look if a
        further node reports an error. Returns the reason why a bucket did not take them; empty if it did."""
        if not self.spec.checkpoints or (time.monotonic() < self._share_at and not at_once):
            return ""
        self._share_at = time.monotonic() + _SHARE_EVERY_S
        events = read_events(self.folder / METRICS_FILE)
        needed = [event for event in events[:-1] if event["event"] != "progress"] + events[-1:]
        try:
            shared = open_run_files(self.settings, self.spec.checkpoints, patience_s=_SHARE_EVERY_S)
            shared.write(METRICS_FILE, "".join(f"{json.dumps(event)}\n" for event in needed).encode())
            shared.write(HEARTBEAT_FILE, (self.folder / HEARTBEAT_FILE).read_bytes())
            self.fetch_error()
        except (ForecacheError, OSError) as error:  # the training goes on
            return f"the progress is not shared with other machines: {error}"
        return ""

    def fetch_error(self) -> None:
        """Copy the error of a worker of a further node into the run's folder, if there is none yet."""
        shared = self.shared_folder if self.settings.training_nodes != "1" else None
        found = shared.read(ERROR_FILE) if shared is not None else None
        if found is not None and not (self.folder / ERROR_FILE).is_file():
            write_durably(self.folder / ERROR_FILE, found[0])

    def share_error(self) -> None:
        """Show the first node the error of a worker of this one, if there is one."""
        shared, error = self.shared_folder, self.folder / ERROR_FILE
        if shared is not None and error.is_file():
            shared.write(ERROR_FILE, error.read_bytes())

    @contextmanager
    def offer_to_nodes(self, lease: Lease) -> Iterator[None]:
        """Let further nodes join the run during the block; after an interruption they wait for it to go on.

        Once another process has taken the lease over, it is that one that tells them how the run ends.
        """
        if self.settings.training_nodes == "1":
            yield
            return
        root = open_training_root(self.settings)

        def write(state: str) -> None:
            content = json.dumps({"run": self.folder.name, "state": state})
            root.write(f"{self.spec.pipeline}/{NODES_FILE}", content.encode())

        write("open")
        try:
            yield
        finally:
            if lease.is_taken_over:
                pass
            elif (self.folder / RESULT_FILE).is_file():
                write("done")
            elif (self.folder / ERROR_FILE).is_file():
                write("failed")


def read_node_state(root: Folder, pipeline: str) -> tuple[str, str]:
    """Name and state ("open", "done" or "failed") of the pipeline's last run on several nodes; empty without one."""
    found = root.read(f"{pipeline}/{NODES_FILE}")
    values: dict[str, Any] = json.loads(found[0]) if found else {"run": "", "state": ""}
    return values["run"], values["state"]


def _progress(events: "Iterator[Any] | Sequence[Any]") -> tuple[int, float]:
    """Number of attempts and time of the last event, by which of two records of a run one is further."""
    known = list(events)
    return sum(event["event"] == "start" for event in known), known[-1]["time"] if known else 0.0


def _shared_name(name: str, digest: str) -> str:
    return f"trained/{digest[:16]}-{name.replace('/', '-')}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
