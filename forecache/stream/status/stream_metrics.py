"""Adds the metrics of streams and live layers to a page for Prometheus."""

import time
from collections.abc import Callable, Iterable

from forecache.base.settings import Settings
from forecache.base.stream_state import StreamState
from forecache.kit.metrics import streams as metrics
from forecache.kit.metrics.metric import Metric
from forecache.kit.metrics.page import Labels, MetricsPage
from forecache.stream.status.layer_status import LayerStatus
from forecache.stream.status.stream_status import read_stream_statuses

_SAID: tuple[tuple[Metric, Callable[[StreamState], object | None]], ...] = (
    (metrics.ROWS, lambda state: state.rows),
    (metrics.BAD, lambda state: state.bad),
    (metrics.REPEATS, lambda state: state.repeats),
    (metrics.LATE, lambda state: state.late),
    (metrics.LAST_COMMIT, lambda state: f"{state.committed_at:.3f}" if state.committed_at else None),
    (metrics.COMMITTED_VERSION, lambda state: state.committed_version if state.committed_version >= 0 else None),
    (metrics.RELEASE, lambda state: state.release),
    (metrics.SAID, lambda state: f"{state.written_at:.3f}"),
)
_OF_LAYERS: tuple[tuple[Metric, Callable[[LayerStatus], object | None]], ...] = (
    (metrics.LAYER_ROWS, lambda layer: layer.rows),
    (metrics.LAYER_APPLIED, lambda layer: layer.applied if layer.applied >= 0 else None),
    (metrics.LAYER_VERIFIED, lambda layer: layer.verified_through if layer.verified_through >= 0 else None),
    (metrics.LAYER_DIFFERED, lambda layer: layer.differed),
    (metrics.LAYER_COMPARISON, lambda layer: f"{layer.comparison_s:.6g}" if layer.comparison_s else None),
    (metrics.LAYER_VERIFIED_AT, lambda layer: f"{layer.verified_at:.3f}" if layer.verified_at else None),
)


def add_streams(page: MetricsPage, settings: Settings) -> None:
    """Add the metrics of every declared stream; metrics of events that have not happened yet have no samples."""
    found = read_stream_statuses(settings)
    page.add(metrics.RUNNING, (((now.stream.name,), int(now.is_running)) for now in found))
    page.add(metrics.STARTS, (((now.stream.name,), now.starts.total) for now in found))
    page.add(metrics.DELAY_LIMIT, (((now.stream.name,), f"{now.stream.max_lag_s:g}") for now in found))
    said = [((now.stream.name,), now.state) for now in found if now.state is not None]
    page.add(metrics.LAG, _lag_samples(said))
    page.add(metrics.DELAY, _delay_samples(said))
    for metric, value in _SAID:
        page.add(metric, ((name, each) for name, state in said if (each := value(state)) is not None))
    layers = [((now.stream.name, layer.store), layer) for now in found for layer in now.layers]
    for of_layer, number in _OF_LAYERS:
        page.add(of_layer, ((names, each) for names, layer in layers if (each := number(layer)) is not None))
    at = time.time()
    until = ((names, each) for names, layer in layers if (each := layer.verification_deadline(at)) is not None)
    page.add(metrics.LAYER_VERIFIED_UNTIL, ((names, f"{each:.3f}") for names, each in until))


def _lag_samples(said: Iterable[tuple[Labels, StreamState]]) -> Iterable[tuple[Labels, object]]:
    for (name,), state in said:
        for partition, end in sorted(state.end_offsets.items(), key=lambda item: int(item[0])):
            yield (name, partition), max(0, end - state.offsets.get(partition, 0))


def _delay_samples(said: Iterable[tuple[Labels, StreamState]]) -> Iterable[tuple[Labels, object]]:
    for (name,), state in said:
        for percentile, seconds in (("50", state.delay_p50_s), ("99", state.delay_p99_s)):
            if seconds is not None:
                yield (name, percentile), f"{seconds:.6g}"
