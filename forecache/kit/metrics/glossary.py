"""The glossary of all metrics, as Markdown."""

from collections.abc import Iterator
from types import ModuleType

from forecache.kit.metrics import batch, drift, model_processes, processes, reader, realtime, request_log, streams
from forecache.kit.metrics.metric import Metric

PARTS: tuple[tuple[str, ModuleType], ...] = (
    ("Reader and store", reader),
    ("Processes", processes),
    ("Real-time models", realtime),
    ("Model processes, breaker, cache", model_processes),
    ("Request log", request_log),
    ("Live drift", drift),
    ("Streams", streams),
    ("Batch", batch),
)
"""Title of each part, and the module that declares its metrics."""


def metrics_of(module: ModuleType) -> list[Metric]:
    """The metrics of a module, in the order of their declarations."""
    return [value for value in vars(module).values() if isinstance(value, Metric)]


def all_metrics() -> dict[str, Metric]:
    """Every metric by its name."""
    return {metric.name: metric for _, module in PARTS for metric in metrics_of(module)}


def render_glossary() -> str:
    """The glossary in Markdown: a section with a table for each part."""
    return "\n".join(_glossary_lines())


def _glossary_lines() -> Iterator[str]:
    for title, module in PARTS:
        yield f"## {title}\n"
        yield f"{module.__doc__}\n"
        yield "| Metric | Type | Unit | Labels | What it is |"
        yield "| --- | --- | --- | --- | --- |"
        for metric in metrics_of(module):
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            yield f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |"
        yield ""
