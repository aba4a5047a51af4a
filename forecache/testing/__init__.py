"""Helpers for the tests and demos of a project.

For tests: the parts of a declaration on small frames (`features`, `labels`, `gate` and `answers` of a pipeline,
`transform` and `answer` of a real-time model), and rows of SQL. For both: a Spark session, demo data, a reader as a
process, pages.

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
    from forecache.testing.batch_parts import answers as answers
    from forecache.testing.batch_parts import features as features
    from forecache.testing.batch_parts import gate as gate
    from forecache.testing.batch_parts import labels as labels
    from forecache.testing.realtime_parts import answer as answer
    from forecache.testing.realtime_parts import transform as transform

_HOMES = list_homes(
    {
        "forecache.base.reports": "ACCENT MUTED SECOND make_page render_svg write_page",
        "forecache.plugins.new_project.reader_process": "ReaderProcess",
        "forecache.kit.spark.session": "spark_session stop_spark",
        "forecache.lake.sql_rows": "select_rows",
        "forecache.plugins.new_project.demo_data": "land_demo_data",
        "forecache.stream.state": "StreamState read_state",
        "forecache.testing.batch_parts": "answers features gate labels",
        "forecache.testing.realtime_parts": "answer transform",
    }
)
__all__ = sorted(_HOMES)

if not TYPE_CHECKING:  # a type checker shall know a wrong name
    __getattr__ = load_lazily(__name__, _HOMES)
