"""The state of a rollout: a part of the state in the lake, with a copy beside the pointer, which readers follow.

<store>/.realtime/<name>/
    ROLLOUT          the copy of the newest rollout's state, replaced atomically
    ROLLOUT.seen     what the controller has counted here in the running step; counted again if it is missing
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from forecache.base.errors import DamagedError, ForecacheError
from forecache.base.files import write_durably
from forecache.kit.versioned.folder import dump_with_checksum, load_with_checksum
from forecache.realtime.release.folder import ReleaseFolder, ReleasePointer

Stage = Literal["aa", "shadow", "canary", "done", "returned"]
STAGES: tuple[Stage, ...] = ("aa", "shadow", "canary", "done", "returned")
FORMAT = 4


@dataclass(frozen=True)
class GuardResult:
    """Result of a guard in a step."""

    guard: str  # its name
    candidate: float  # means of the two variants
    current: float
    low: float | None  # bounds of the harmful difference, valid at all looks together; None: too few keys
    high: float | None
    tolerated: float  # largest difference that is no reason to return
    harmful: bool  # True if a larger difference is proved


@dataclass(frozen=True)
class RolloutStep:
    """A step of a rollout, running or ended."""

    stage: Stage
    share: float  # share of keys in the variant that is compared with the rest
    since: str  # ISO 8601 in UTC
    until: str = ""  # "" while the step is running
    verdict: str = "waits"  # "waits", "passed", "returned" or "paused"
    why: str = ""  # reason of the verdict, in a sentence
    requests: tuple[int, int] = (
        0,
        0,
    )  # number of requests in the variant of the current release, and in the other variant
    compared: tuple[GuardResult, ...] = ()  # results of the guards
    shown: Mapping[str, float] = field(default_factory=dict)  # mean times, agreement of scores


@dataclass(frozen=True)
class RolloutState:
    """A rollout. `edges`: deciles of the scores of the current release, nine numbers; empty before the A/A step."""

    name: str
    release: int  # the candidate
    current: int  # the release that was current at the start of the rollout
    stage: Stage
    share: float
    started_at: str
    plan: Mapping[str, Any]  # the declared plan, as `dataclasses.asdict` returns it
    generation: int = 0  # counts changes of the state
    paused: bool = False  # True if it stays at its step until a person resumes it
    why: str = ""  # reason of the last change, in a sentence
    is_bad: bool = True  # True if returning marks the candidate as bad; False if another release took its place
    looked_at: str = ""  # time of the controller's last check; "" before the first
    slow_us: float = 0.0  # time from which a request counts as slow; 0 before the A/A step
    edges: tuple[float, ...] = ()  # deciles of the current release's scores; empty before the A/A step
    steps: tuple[RolloutStep, ...] = ()  # all steps up to the running one, which is the last
    history: str = ""  # as in the pointer
    format: int = FORMAT

    @property
    def is_over(self) -> bool:
        return self.stage in ("done", "returned")

    @property
    def salt(self) -> bytes:
        """Salt of the hash that assigns keys to variants; it differs by release, so that no key is always first."""
        return f"rollout:{self.name}:{self.release}".encode()

    @property
    def step(self) -> RolloutStep:
        return self.steps[-1]

    def with_step(self, **changes: Any) -> "RolloutState":
        return replace(self, steps=(*self.steps[:-1], replace(self.step, **changes)))


_STATE = TypeAdapter(RolloutState)


def rollout_file(folder: ReleaseFolder) -> Path:
    return folder.root / "ROLLOUT"


def read_rollout(folder: ReleaseFolder) -> RolloutState | None:
    """Read the newest rollout of a model's releases; None if there was none.

    Raises:
        DamagedError: The state is damaged, or has another format.
    """
    file = rollout_file(folder)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    return rollout_from_json(content, what=f"The file {file}")


def find_rollout(folder: ReleaseFolder) -> RolloutState | None:
    """Read the newest rollout; None if there was none or its state is damaged."""
    with suppress(DamagedError):
        return read_rollout(folder)
    return None


def running_rollout(state: RolloutState | None, pointer: ReleasePointer) -> RolloutState | None:
    """Return the state if the rollout is still running between these releases, else None."""
    if state is None or state.is_over or pointer.current != state.current or state.release in pointer.bad:
        return None
    return state


def write_rollout(folder: ReleaseFolder, state: RolloutState) -> None:
    """Replace the copy here; the caller holds the lock of the releases."""
    write_durably(rollout_file(folder), rollout_to_json(state))


def rollout_to_json(state: RolloutState) -> bytes:
    return dump_with_checksum(asdict(state))


def rollout_from_json(content: bytes, *, what: str) -> RolloutState:
    """Decode a state; raises `DamagedError` if it is damaged or has another format."""
    return rollout_from_dict(load_with_checksum(content, what=what), what=what)


def rollout_from_dict(data: Mapping[str, Any], *, what: str) -> RolloutState:
    """Make a state of what `dataclasses.asdict` returned; raises `DamagedError` for another format."""
    if data.get("format") != FORMAT:
        raise DamagedError(
            f"{what} has the format {data.get('format')}, and this Forecache reads {FORMAT}.",
            remedy="Remove it: the current release keeps answering; `forecache release build` starts a new rollout.",
        )
    return _STATE.validate_python(data)


def replicated_fields(state: RolloutState | None) -> tuple[object, ...] | None:
    """Return the fields that readers act on; the others are figures."""
    if state is None:
        return None
    return (state.release, state.started_at, state.stage, state.share, state.paused, state.is_bad)


def describe_rollout(folder: ReleaseFolder) -> dict[str, Any] | None:
    """Describe the newest rollout for the status of a reader; None if there was none or its state cannot be read.

    The reader logs a state that cannot be read, and answers as if there were no rollout.
    """
    try:
        state = read_rollout(folder)
    except (ForecacheError, OSError):
        return None
    if state is None:
        return None
    shown = ("release", "current", "stage", "share", "paused", "started_at", "looked_at", "why")
    requests = list(state.step.requests) if state.steps else [0, 0]
    return {**{name: getattr(state, name) for name in shown}, "requests": requests}
