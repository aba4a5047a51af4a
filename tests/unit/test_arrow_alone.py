"""Arrow without pandas: what a process of a stream imports at its start, and what it may still do."""

import subprocess
import sys


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_pandas_is_not_imported_until_it_is_asked_for() -> None:
    assert _run(
        "import sys\n"
        "from forecache.arrow_alone import arrow_without_pandas\n"
        "arrow_without_pandas()\n"
        "import forecache.stream.arrow.engine, forecache.stream.tail.run\n"
        "import pyarrow as pa\n"
        "table = pa.table({'a': pa.array([1, None]), 'b': ['x', 'y']})\n"
        "table.to_pylist(), table['a'].to_numpy()\n"
        "print('pandas' in sys.modules)\n"
        "print(type(table.to_pandas()).__name__, 'pandas' in sys.modules)\n"
        "import pandas as pd\n"
        "print(pa.array(pd.Series([1.0, float('nan')])).null_count)\n"
    ).split("\n") == ["False", "DataFrame True", "1"]


def test_a_process_that_has_pandas_keeps_it() -> None:
    assert (
        _run(
            "import pandas as pd\n"
            "from forecache.arrow_alone import arrow_without_pandas\n"
            "arrow_without_pandas()\n"
            "import pyarrow as pa\n"
            "print(pa.array(pd.Series([1.0, float('nan')])).null_count)\n"
        )
        == "1"
    )
