"""Arrow without pandas, and what else a process of a stream does not import at its start."""

import subprocess
import sys


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_pandas_is_not_imported_until_it_is_asked_for() -> None:
    assert _run(
        "import sys\n"
        "from forecache.kit.process.hidden_pandas import hide_pandas_from_arrow\n"
        "hide_pandas_from_arrow()\n"
        "import forecache.stream.engine.arrow_engine, forecache.stream.tail.tailer\n"
        "import pyarrow as pa\n"
        "table = pa.table({'a': pa.array([1, None]), 'b': ['x', 'y']})\n"
        "table.to_pylist(), table['a'].to_numpy()\n"
        "print('pandas' in sys.modules)\n"
        "print(type(table.to_pandas()).__name__, 'pandas' in sys.modules)\n"
        "import pandas as pd\n"
        "print(pa.array(pd.Series([1.0, float('nan')])).null_count)\n"
    ).split("\n") == ["False", "DataFrame True", "1"]


def test_the_finder_that_waits_for_arrow_changes_nothing_for_who_only_looks_for_it() -> None:
    assert _run(
        "import importlib.util, sys\n"
        "from forecache.kit.process.hidden_pandas import hide_pandas_from_arrow\n"
        "hide_pandas_from_arrow(), hide_pandas_from_arrow()\n"
        "print('pyarrow' in sys.modules, importlib.util.find_spec('pyarrow') is not None)\n"
        "import pyarrow as pa\n"
        "pa.array(['x']), hide_pandas_from_arrow()\n"
        "import pandas\n"
        "print(pa.array(pandas.Series([1.0, float('nan')])).null_count)\n"
        "print([each for each in sys.meta_path if type(each).__module__.startswith('forecache')])\n"
    ).split("\n") == ["False True", "1", "[]"]


def test_engine_and_tailer_import_nothing_heavy_that_they_do_not_use() -> None:
    loaded = _run(
        "import sys\n"
        "from forecache.kit.process.hidden_pandas import hide_pandas_from_arrow\n"
        "hide_pandas_from_arrow()\n"
        "import forecache.stream.engine.arrow_engine, forecache.stream.tail.tailer\n"
        "import forecache.stream.step, forecache.plugins.stream_answers.release_answerer\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    ).split()
    heavy = {"pandas", "mlflow", "pyspark", "sklearn", "great_expectations", "torch", "dagster", "duckdb", "matplotlib"}
    assert "pyarrow" in loaded
    assert heavy.isdisjoint(loaded)


def test_a_process_that_has_pandas_keeps_it() -> None:
    assert (
        _run(
            "import pandas as pd\n"
            "from forecache.kit.process.hidden_pandas import hide_pandas_from_arrow\n"
            "hide_pandas_from_arrow()\n"
            "import pyarrow as pa\n"
            "print(pa.array(pd.Series([1.0, float('nan')])).null_count)\n"
        )
        == "1"
    )


def test_pandas_objects_are_known_from_the_import_of_pandas_on() -> None:
    assert (
        _run(
            "from forecache.kit.process.hidden_pandas import hide_pandas_from_arrow\n"
            "hide_pandas_from_arrow()\n"
            "import pyarrow as pa\n"
            "import numpy as np\n"
            "import pandas.api.types\n"
            "print(pa.array(pandas.Series([1.0, float('nan')])).null_count, pa.array(np.array([np.nan])).null_count)\n"
        )
        == "1 0"
    )
