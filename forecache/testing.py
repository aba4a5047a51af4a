"""Helpers for the tests and demos of a project: rows of SQL, a Spark session, demo data, a reader as a process, pages.

A name loads when it is first used.
"""

from typing import TYPE_CHECKING

from forecache.base.lazy_names import list_homes, load_lazily

if TYPE_CHECKING:
    from forecache.base.reports import ACCENT as ACCENT
    from forecache.base.reports import MUTED as MUTED
    from forecache.base.reports import SECOND as SECOND
    from forecache.base.reports import make_page as make_page
    from forecache.base.reports import render_svg as render_svg
    from forecache.base.reports import write_page as write_page
    from forecache.kit.spark.session import spark_session as spark_session
    from forecache.kit.spark.session import stop_spark as stop_spark
    from forecache.lake.sql_rows import select_rows as select_rows
    from forecache.plugins.new_project.demo_data import land_demo_data as land_demo_data
    from forecache.plugins.new_project.reader_process import ReaderProcess as ReaderProcess
    from forecache.stream.state import StreamState as StreamState
    from forecache.stream.state import read_state as read_state

_HOMES = list_homes(
    {
        "forecache.base.reports": "ACCENT MUTED SECOND make_page render_svg write_page",
        "forecache.plugins.new_project.reader_process": "ReaderProcess",
        "forecache.kit.spark.session": "spark_session stop_spark",
        "forecache.lake.sql_rows": "select_rows",
        "forecache.plugins.new_project.demo_data": "land_demo_data",
        "forecache.stream.state": "StreamState read_state",
    }
)
__all__ = sorted(_HOMES)

if not TYPE_CHECKING:  # a type checker shall know a wrong name
    __getattr__ = load_lazily(__name__, _HOMES)
