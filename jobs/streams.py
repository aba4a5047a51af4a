"""Streams in Dagster, which run outside of it: the sensor that watches them and restarts those that died."""

import json
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.streams import (
    build_live_layers,
    build_stream,
    build_stream_checks,
    build_topic,
    layer_materializations,
    stream_evaluations,
    stream_materialization,
)
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.declare.project import Project
from forecache.kit.process.wakes import STREAM_EVENTS
from forecache.stream.status import StreamStatus, read_stream_status
from resources.settings_resource import SettingsResource

_MADE_S, _CHECKED_S = 300.0, 3600.0
"""A version is reported every five minutes at most, a check result when it changes, or hourly."""
Cursor = dict[str, dict[str, Any]]


def stream_definitions(project: Project) -> dg.Definitions:
    """Assets, checks and the sensor; empty if no stream is declared."""
    streams = list(project.streams.values())
    if not streams:
        return dg.Definitions()
    topics = {each.topic.name: build_topic(each) for each in streams}
    layers = [layer for each in streams for layer in build_live_layers(each, project.publishable)]
    return dg.Definitions(
        assets=[*topics.values(), *(build_stream(each) for each in streams), *layers],
        asset_checks=[build_stream_checks(each) for each in streams],
        sensors=[build_streams_sensor(streams)],
    )


def build_streams_sensor(streams: Sequence[Stream]) -> dg.SensorDefinition:
    """The sensor that reports commits and check results of every stream as events, and restarts streams that died."""

    @dg.sensor(
        name="streams",
        minimum_interval_seconds=int(STREAM_EVENTS.every_s),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports versions and checks of the streams. With FORECACHE_STREAM_KEEP_RUNNING it starts those "
        "that do not run, each once, with growing pauses where one dies again and again.",
    )
    def watch_streams(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.SensorResult:
        current = settings.load()
        told = start_stopped_streams(current, streams)
        before: Cursor = json.loads(context.cursor) if context.cursor else {}
        events: list[Any] = []
        after: Cursor = {}
        for stream in streams:
            now = read_stream_status(current, stream)
            some, after[stream.name] = new_stream_events(current, now, before.get(stream.name, {}))
            events += some
        reason = "; ".join(told) or "Every stream was looked at."
        return dg.SensorResult(skip_reason=reason, asset_events=events, cursor=json.dumps(after))

    return watch_streams


def start_stopped_streams(settings: Settings, streams: Sequence[Stream]) -> list[str]:
    """Start streams that do not run, if the settings say so; returns a phrase for each that was started or waits."""
    if not settings.stream_keep_running:
        return []
    from forecache.operations.keep_streams_running import keep_running

    words = {"started": "{0} was started", "starting": "{0} is starting", "waits": "{0} is started again in {1:.0f} s"}
    return [
        words[each.did].format(each.stream, each.wait_s)
        for each in keep_running(settings, streams)
        if each.did in words
    ]


def new_stream_events(
    settings: Settings, now: StreamStatus, before: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """New events of a stream, and its state after they are recorded.

    Args:
        before: State after the last recorded events: `version`, `made_at`, `checks` (True by name if passed) and
            `checked_at`.
    """
    events: list[Any] = []
    after = dict(before)
    version = now.state.committed_version if now.state is not None else -1
    if version >= 0 and version != before.get("version") and now.at - before.get("made_at", 0.0) >= _MADE_S:
        events += [stream_materialization(settings, now), *layer_materializations(now)]
        after |= {"version": version, "made_at": now.at}
    evaluations = stream_evaluations(now) if now.state is not None or settings.stream_keep_running else []
    passed = {each.check_name: each.passed for each in evaluations}
    is_old = now.at - before.get("checked_at", 0.0) >= _CHECKED_S
    known = before.get("checks", {})
    changed = [each for each in evaluations if is_old or known.get(each.check_name) != each.passed]
    if changed:
        events += changed
        after |= {"checks": passed, "checked_at": now.at if is_old else before.get("checked_at", 0.0)}
    return events, after
