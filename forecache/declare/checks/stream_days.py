"""Check that sources with `extract=StreamDay(...)` name a stream that has their events."""

from collections.abc import Iterator, Mapping, Sequence

from forecache.base.errors import SettingsError
from forecache.declare.checks.conflicts import Declared
from forecache.declare.sources.source import Source
from forecache.declare.sources.stream_day import StreamDay
from forecache.declare.streams.stream import Stream


def stream_day_errors(found: Mapping[str, Sequence[Declared]]) -> dict[str, SettingsError]:
    """Errors, by module, of sources with `extract=StreamDay(...)` whose stream is not declared or has other events."""
    streams = {each.name: each for some in found.values() for each in some if isinstance(each, Stream)}
    broken: dict[str, SettingsError] = {}
    for module, some in found.items():
        for source in _landed_sources(some):
            if isinstance(source.extract, StreamDay):
                error = _stream_day_error(source, source.extract, streams)
                if error is not None:
                    broken.setdefault(module, error)
    return broken


def _landed_sources(declared: Sequence[Declared]) -> Iterator[Source]:
    for each in declared:
        for source in each.all_sources:
            if isinstance(source, Source):
                yield source


def _stream_day_error(source: Source, extract: StreamDay, streams: Mapping[str, Stream]) -> SettingsError | None:
    stream = streams.get(extract.stream)
    if stream is None:
        listed = ", ".join(sorted(streams)) or "none"
        return SettingsError(
            f"Source {source.name!r} is extracted from the stream {extract.stream!r}, which no module declares.",
            remedy=f"Streams are: {listed}.",
        )
    if stream.source.name != source.name:
        return SettingsError(
            f"Source {source.name!r} is extracted from the stream {stream.name!r}, whose topic carries the source "
            f"{stream.source.name!r}.",
            remedy="Name the stream whose topic carries the source.",
        )
    required = sorted(
        column.name for column in source.columns if column.required and column.name in stream.topic.without
    )
    if required:
        return SettingsError(
            f"Source {source.name!r} is extracted from the stream {stream.name!r}, and requires the column "
            f"{required[0]!r}, which the messages of its topic do not have.",
            remedy="Declare it with required=False, or in a source of its own where it comes later.",
        )
    return None
