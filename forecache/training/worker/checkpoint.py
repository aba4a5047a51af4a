"""Checkpoints that exist whole or not at all: a directory a step, a checksum in the marker, the marker last.

Under DDP every rank holds the same state, so rank 0 writes one file; `torch.distributed.checkpoint` would add its
planning and a collective for nothing. Writing runs in a background thread over a copy of the state, and on the main
thread at the end or on SIGTERM.
"""

import hashlib
import io
import json
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from forecache.errors import ForecacheError

MARKER = "COMMITTED"
_STATE = "state.pt"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where the step directories lie.
        inputs: What the run depends on; a checkpoint of other inputs is refused.
        keep: Newest committed checkpoints that stay.
    """

    def __init__(self, folder: Path, *, inputs: str, keep: int) -> None:
        self.folder, self.inputs, self.keep = folder, inputs, keep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, state: dict[str, Any], *, wait: bool = False) -> None:
        """Write a checkpoint; returns before it is on disk unless `wait`. An earlier write's error is raised here."""
        self.wait()
        copied = _copy(state)
        self._pending = self._pool.submit(self._write, step, copied)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Block until the last checkpoint is on disk."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def latest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest checkpoint that is whole, and a sentence for each newer one that is not.

        Raises:
            ForecacheError: The checkpoint belongs to a run with other inputs.
        """
        refused = []
        for folder in sorted(self.folder.glob("step-*"), reverse=True):
            problem = self._problem(folder)
            if problem:
                refused.append(f"checkpoint {folder.name} is passed over: {problem}")
                continue
            state: dict[str, Any] = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
            if state["inputs"] != self.inputs:
                raise ForecacheError(
                    f"The checkpoint {folder} belongs to a run with other inputs.",
                    remedy="Remove the run's folder to start anew.",
                )
            return state, refused
        return None, refused

    def _problem(self, folder: Path) -> str:
        if not (folder / MARKER).is_file():
            return "it was never committed"
        marker = json.loads((folder / MARKER).read_text())
        state = folder / _STATE
        if not state.is_file() or hashlib.sha256(state.read_bytes()).hexdigest() != marker["sha256"]:
            return "its content does not match its checksum"
        return ""

    def _write(self, step: int, state: dict[str, Any]) -> None:
        folder = self.folder / f"step-{step:010d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        buffer = io.BytesIO()
        torch.save({**state, "inputs": self.inputs}, buffer)
        content = buffer.getvalue()
        _write_durably(folder / _STATE, content)
        marker = {"step": step, "sha256": hashlib.sha256(content).hexdigest(), "written_at": time.time()}
        unfinished = folder / f".{MARKER}"
        _write_durably(unfinished, json.dumps(marker).encode())
        unfinished.rename(folder / MARKER)
        _sync_folder(folder)
        self._prune()

    def _prune(self) -> None:
        committed = sorted(folder for folder in self.folder.glob("step-*") if (folder / MARKER).is_file())
        for folder in committed[: -self.keep]:
            (folder / MARKER).unlink()  # first, so that a half-removed checkpoint is never taken for a whole one
            shutil.rmtree(folder)


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    return value


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
