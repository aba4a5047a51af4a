"""What answers the events of a batch: nothing, a release of a real-time model, or the model of a pipeline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from forecache.pipeline import Pipeline, Realtime
from forecache.settings import Settings
from forecache.stream.step.used import UsedFeatures
from forecache.stream.step.views import Seen


@dataclass(frozen=True)
class Answers:
    """
    Attributes:
        columns: `forecache.stream.record.output_fields`, n rows; a row without an answer is null.
        model_version, release: What answered; None where there is no model, or no release.
        failed: Rows without an answer.
        failure: Why the last of them has none.
        used: The features that were answered with, in the order of the release's or the pipeline's; None where nothing
            answers.
    """

    columns: Sequence[pa.Array]
    model_version: int | None = None
    release: int | None = None
    failed: int = 0
    failure: str = ""
    used: UsedFeatures | None = None


class Answerer(Protocol):
    """Answers events.

    Attributes:
        look_every_s: How often it is worth to look for what is newer.
    """

    look_every_s: float

    @property
    def release(self) -> int | None:
        """The number of the release that answers; None where none does."""
        ...

    def look(self) -> Any:
        """What newer answers there are than `take_up` had: an object for it, None for none. Another thread may call it.

        Raises:
            ForecacheError: There is none, or what there is cannot be used.
        """

    def take_up(self, found: Any) -> None:
        """Answer with what `look` found from now on; called between batches."""

    def answer(self, events: pa.Table, seen: Mapping[str, Seen]) -> Answers:
        """Answer events.

        Args:
            seen: By view, what each event saw.
        """


class NoAnswers:
    """Only the views are kept."""

    look_every_s = 3600.0
    release = None

    def look(self) -> Any:
        return None

    def take_up(self, found: Any) -> None:
        raise AssertionError("there is nothing to take up")

    def answer(self, events: pa.Table, seen: Mapping[str, Seen]) -> Answers:
        return Answers([])


def take_up_newest(answerer: Answerer) -> None:
    """Have it answer with what is current; raises as `Answerer.look`."""
    found = answerer.look()
    if found is not None:
        answerer.take_up(found)


def answerer_of(settings: Settings, answers: Any, *, number: int | None = None) -> Answerer:
    """What answers the events of a stream.

    Args:
        answers: As declared.
        number: The release, or the version of the model, that always answers; None: the one that is current.
    """
    if isinstance(answers, Realtime):
        from forecache.stream.step.by_release import ReleaseAnswers

        return ReleaseAnswers(settings, answers, number)
    if isinstance(answers, Pipeline):
        from forecache.stream.step.by_pipeline import PipelineAnswers

        return PipelineAnswers(settings, answers, number)
    return NoAnswers()
