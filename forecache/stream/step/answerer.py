"""The protocol of answerers, which score the events of a batch by a real-time model's release or a pipeline's model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime
from forecache.stream.step.used_features import UsedFeatures
from forecache.stream.step.view_tiles import ViewFeatures


@dataclass(frozen=True)
class EventAnswers:
    """The answers to n events.

    Attributes:
        columns: `forecache.stream.table_schema.output_fields`, n rows; a row without an answer is null.
        model_version, release: The model version and release that answered; None if there is none.
        failed: Rows without an answer.
        failure: The error of the last of these.
        used: The features of the answers, in the order of the release's or the pipeline's; None if there is no model.
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
        look_every_s: Seconds between two calls of `find_newer`.
    """

    look_every_s: float

    @property
    def release(self) -> int | None:
        """The number of the release that answers; None if no release does."""
        ...

    def find_newer(self) -> Any:
        """Load a newer release or model version for `switch_to`; None if there is none. Any thread may call it.

        Raises:
            ForecacheError: There is no release or model at all, or the newer one cannot be used.
        """

    def switch_to(self, found: Any) -> None:
        """Answer with the result of `find_newer` from now on; called between batches."""

    def answer(self, events: pa.Table, seen: Mapping[str, ViewFeatures]) -> EventAnswers:
        """Answer events.

        Args:
            seen: By view, the features that each event gets.
        """


class NoAnswerer:
    """The answerer of a stream without a model, which only keeps its views."""

    look_every_s = 3600.0
    release = None

    def find_newer(self) -> Any:
        return None

    def switch_to(self, found: Any) -> None:
        raise AssertionError("there is nothing to take up")

    def answer(self, events: pa.Table, seen: Mapping[str, ViewFeatures]) -> EventAnswers:
        return EventAnswers([])


def switch_to_newest(answerer: Answerer) -> None:
    """Switch to the current release or model version; raises as `Answerer.find_newer`."""
    found = answerer.find_newer()
    if found is not None:
        answerer.switch_to(found)


def answerer_of(settings: Settings, answers: Any, *, number: int | None = None) -> Answerer:
    """Return the answerer of a stream.

    Args:
        answers: The declared pipeline or real-time model, or None.
        number: The release or model version that always answers; None: the current one.
    """
    if isinstance(answers, Realtime):
        from forecache.stream.step.release_answerer import ReleaseAnswerer

        return ReleaseAnswerer(settings, answers, number)
    if isinstance(answers, Pipeline):
        from forecache.stream.step.pipeline_answerer import PipelineAnswerer

        return PipelineAnswerer(settings, answers, number)
    return NoAnswerer()
