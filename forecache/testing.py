"""Helpers for the tests and demos of a project: a Spark session, demo data, a reader as a child process, pages.

A name loads when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecache.base.reports.page import make_page as make_page
    from forecache.base.reports.page import write_page as write_page
    from forecache.base.reports.plots import ACCENT as ACCENT
    from forecache.base.reports.plots import MUTED as MUTED
    from forecache.base.reports.plots import SECOND as SECOND
    from forecache.base.reports.plots import render_svg as render_svg
    from forecache.base.stream_state import StreamState as StreamState
    from forecache.base.stream_state import read_state as read_state
    from forecache.cli.reader_process import ReaderProcess as ReaderProcess
    from forecache.kit.spark.session import spark_session as spark_session
    from forecache.kit.spark.session import stop_spark as stop_spark
    from forecache.plugins.new_project.demo_data import land_demo_data as land_demo_data

_MODULES = {
    "ACCENT": "forecache.base.reports.plots",
    "MUTED": "forecache.base.reports.plots",
    "SECOND": "forecache.base.reports.plots",
    "ReaderProcess": "forecache.cli.reader_process",
    "StreamState": "forecache.base.stream_state",
    "land_demo_data": "forecache.plugins.new_project.demo_data",
    "make_page": "forecache.base.reports.page",
    "read_state": "forecache.base.stream_state",
    "render_svg": "forecache.base.reports.plots",
    "spark_session": "forecache.kit.spark.session",
    "stop_spark": "forecache.kit.spark.session",
    "write_page": "forecache.base.reports.page",
}
__all__ = sorted(_MODULES)

if not TYPE_CHECKING:  # a type checker shall know a wrong name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)
