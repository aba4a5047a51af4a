"""The state of a rollout, beside the pointer of the releases: what readers follow, and what the controller knows.

<store>/.realtime/<name>/
    ROLLOUT          the state of the newest rollout, replaced in one step
    ROLLOUT.seen     what the controller has counted in the present step; it is counted anew where it is missing
    ROLLOUT.told     the generation that the lake and the remote have; they are told again where it is missing
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from forecache.errors import DamagedError
from forecache.files import write_durably
from forecache.realtime.release.folder import ReleaseFolder, ReleasePointer
from forecache.steps import rollout_step
from forecache.store.sealed import sealed, unsealed

Stage = Literal["aa", "shadow", "canary", "done", "returned"]
STAGES: tuple[Stage, ...] = ("aa", "shadow", "canary", "done", "returned")
FORMAT = 3


@dataclass(frozen=True)
class Compared:
    """What a guard says of a step.

    Attributes:
        guard: Its name.
        candidate, current: Means of the two arms.
        low, high: Bounds of the difference in the direction that does harm, which hold at all looks together; None
            before there are enough keys.
        tolerated: A difference up to this is no reason to return.
        harmful: Whether a larger one is proved.
    """

    guard: str
    candidate: float
    current: float
    low: float | None
    high: float | None
    tolerated: float
    harmful: bool


@dataclass(frozen=True)
class Step:
    """A step of a rollout, under way or passed.

    Attributes:
        share: Of keys in the arm that is compared with the rest.
        since, until: ISO 8601 in UTC; "" while it is under way.
        verdict: "waits", "passed", "returned" or "paused".
        why: In a sentence.
        requests: Of the current release's arm, and of the other.
        compared: By guard.
        shown: Further figures: mean times, how far the scores of both releases agree.
    """

    stage: Stage
    share: float
    since: str
    until: str = ""
    verdict: str = "waits"
    why: str = ""
    requests: tuple[int, int] = (0, 0)
    compared: tuple[Compared, ...] = ()
    shown: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RolloutState:
    """A rollout.

    Attributes:
        release: The candidate.
        current: The release that answered when it began, and answers still.
        plan: What is declared, as `dataclasses.asdict` has it.
        generation: Counts its changes.
        paused: Whether it stays where it is until a person resumes it.
        why: Of the last change, in a sentence.
        is_bad: Whether the candidate is marked as bad where it is returned: not where another release took its place.
        looked_at: When the controller looked last; "" before.
        slow_us: From where on a request is slow; 0 before the A/A step.
        edges: Nine numbers between which the scores of the current release fall evenly; empty before the A/A step.
        steps: All up to the one under way, the last.
        home: Identity of the home that moves it on; replicas have the states of others.
    """

    name: str
    release: int
    current: int
    stage: Stage
    share: float
    started_at: str
    plan: Mapping[str, Any]
    generation: int = 0
    paused: bool = False
    why: str = ""
    is_bad: bool = True
    looked_at: str = ""
    slow_us: float = 0.0
    edges: tuple[float, ...] = ()
    steps: tuple[Step, ...] = ()
    home: str = ""
    format: int = FORMAT

    @property
    def is_over(self) -> bool:
        return self.stage in ("done", "returned")

    @property
    def salt(self) -> bytes:
        """Of the hash that puts keys into arms: another one for each release, so that none is always the first."""
        return f"rollout:{self.name}:{self.release}".encode()

    @property
    def step(self) -> Step:
        """The one under way, or the last."""
        return self.steps[-1]

    def with_step(self, **changes: Any) -> "RolloutState":
        """With the last step changed."""
        return replace(self, steps=(*self.steps[:-1], replace(self.step, **changes)))


def rollout_file(folder: ReleaseFolder) -> Path:
    return folder.root / "ROLLOUT"


def read_rollout(folder: ReleaseFolder) -> RolloutState | None:
    """The newest rollout of a model's releases, None where there was none.

    Raises:
        DamagedError: It is not what was written, or of another format.
    """
    file = rollout_file(folder)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    return rollout_from_json(content, what=f"The file {file}")


def running(state: RolloutState | None, pointer: ReleasePointer) -> RolloutState | None:
    """A state by which requests are to be answered; None where there is no rollout between these releases any more."""
    if state is None or state.is_over or pointer.current != state.current or state.release in pointer.bad:
        return None
    return state


def is_settled(state: RolloutState, pointer: ReleasePointer) -> bool:
    """Whether state and pointer say the same: nobody was killed between them, and has something left to do."""
    if not state.is_over:
        return running(state, pointer) is not None
    return state.stage == "done" or not state.is_bad or state.release in (pointer.current, *pointer.bad)


def write_rollout(folder: ReleaseFolder, state: RolloutState) -> RolloutState:
    """Replace the state, in its next generation; the caller holds the lock of the releases."""
    state = replace(state, generation=state.generation + 1)
    write_durably(rollout_file(folder), rollout_to_json(state))
    rollout_step("state written")
    return state


def rollout_to_json(state: RolloutState) -> bytes:
    return sealed(asdict(state))


def rollout_from_json(content: bytes, *, what: str) -> RolloutState:
    """Raises what `unsealed` does, and `DamagedError` for another format."""
    data = unsealed(content, what=what)
    if data.get("format") != FORMAT:
        raise DamagedError(
            f"{what} has the format {data.get('format')}, and this Forecache reads {FORMAT}.",
            remedy="Remove it: the current release goes on answering, and `forecache release` starts a new rollout.",
        )
    steps = tuple(
        Step(**{
            **each,
            "requests": tuple(each["requests"]),
            "compared": tuple(Compared(**one) for one in each["compared"]),
        })
        for each in data["steps"]
    )  # fmt: skip
    return RolloutState(**{**data, "steps": steps, "edges": tuple(data["edges"])})
