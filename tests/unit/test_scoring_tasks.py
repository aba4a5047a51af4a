"""A task becomes the same files whoever scores it and however often, whole or not at all."""

import errno
import pickle
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring_support import features_table, make_pipeline, network

from forecache.base.errors import InputError, UnavailableError
from forecache.base.output_kinds import OutputSpec
from forecache.kit.delta.files import Place
from forecache.lake.provenance import Stamp
from forecache.models.inference.kernel_spec import KernelSpec, OutputColumn
from forecache.models.inference.outputs import source_of
from forecache.scoring.tasks.engines import group_tasks
from forecache.scoring.tasks.prediction_file import open_output
from forecache.scoring.tasks.prediction_rows import layout_of
from forecache.scoring.tasks.task import JobSpec, Task, TaskScorer

PIPELINE = make_pipeline()
ROWS = 1_000
STAMP = Stamp("demo", 3, datetime(2024, 7, 1, 1, 2, 3, 456789, tzinfo=timezone.utc), "the run")


def spec_in(folder: Path) -> JobSpec:
    """A feature file of four row groups, and how it is scored in batches of 100 into parts of 250 rows."""
    (folder / "features").mkdir()
    table = features_table(ROWS).drop_columns(["as_of"])
    pq.write_table(table, folder / "features" / "file.parquet", row_group_size=250)
    options = {"providers": [], "feeds": [("x", "float32", 2)], "fetches": ["probability"]}
    spec = KernelSpec("onnx", "p", (), 20, "float32", (OutputColumn("probability", "float"),), "scalar", options)
    places = (Place(str(folder / "features")), Place(str(folder / "predictions")))
    return JobSpec(*places, spec, PIPELINE.feature_names, layout_of(PIPELINE), STAMP, 100, 250)


def score(spec: JobSpec, task: Task) -> dict[str, bytes]:
    counted: list[int] = []
    TaskScorer(spec, network, str).score(task, counted.append)
    assert sum(counted) == task.rows
    root = Path(spec.predictions.uri)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def content(files: dict[str, bytes]) -> pa.Table:
    return pa.concat_tables([pq.read_table(pa.BufferReader(files[name])) for name in sorted(files)])


def test_a_task_that_is_scored_twice_leaves_the_same_bytes_under_the_same_names(tmp_path: Path) -> None:
    spec, task = spec_in(tmp_path), Task(7, "file.parquet", 5, 0, ROWS, "attempt/shard=file.parquet")
    files = score(spec, task)
    names = [f"attempt/shard=file.parquet/part-00007.c{part:03d}.snappy.parquet" for part in range(4)]
    assert sorted(files) == names
    assert score(pickle.loads(pickle.dumps(spec)), task) == files
    rows = content(files)
    assert rows["user_id"].to_pylist() == features_table(ROWS)["user_id"].to_pylist()
    assert rows["scored_at"][0].as_py() == STAMP.scored_at
    assert (rows["run_id"][9].as_py(), rows["model_version"][9].as_py(), rows["feature_version"][9].as_py()) == (
        "the run",
        3,
        5,
    )


@pytest.mark.parametrize(("first", "rows"), [(250, 250), (130, 400), (999, 1)])
def test_a_task_is_its_rows_wherever_row_groups_begin(tmp_path: Path, first: int, rows: int) -> None:
    spec = spec_in(tmp_path)
    whole = content(score(spec, Task(0, "file.parquet", 5, 0, ROWS, "whole")))
    part = score(spec, Task(1, "file.parquet", 5, first, rows, "part"))
    assert content({name: data for name, data in part.items() if name.startswith("part/")}) == whole.slice(first, rows)


def test_an_output_that_is_not_a_number_is_null_and_has_no_segment(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    wild = features_table(9).drop_columns(["as_of"])
    for name, value in (("f1", np.inf), ("f2", -np.inf)):
        column = pa.array([value if i in (2, 8) else 0.0 for i in range(9)], pa.float32())
        wild = wild.set_column(wild.schema.get_field_index(name), name, column)
    pq.write_table(wild, tmp_path / "features" / "wild.parquet")
    rows = content(score(spec, Task(0, "wild.parquet", 5, 0, 9, "wild")))
    assert [i for i, value in enumerate(rows["probability"].to_pylist()) if value is None] == [2, 8]
    assert [i for i, value in enumerate(rows["band"].to_pylist()) if value is None] == [2, 8]


def test_of_several_outputs_the_pipeline_s_is_taken_and_a_model_without_it_refused() -> None:
    two = (OutputColumn("score", "float"), OutputColumn("probability", "float"))
    spec = KernelSpec("onnx", "two", (), 20, "float32", two, "struct")
    assert source_of(spec, OutputSpec("probability")) == (1,)
    one = KernelSpec("onnx", "one", (), 20, "float32", two[:1], "scalar")
    assert source_of(one, OutputSpec("probability")) == (0,)
    with pytest.raises(InputError, match="returns score, probability, and the pipeline's output is called 'spend'"):
        source_of(spec, OutputSpec("spend"))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, scheme: str) -> None:
    filesystem, schema = Place(f"{scheme}{tmp_path}").open(), pa.schema([("a", pa.int64())])
    batch, path = pa.record_batch([pa.array([1, 2])], schema=schema), tmp_path / "folder" / "part.parquet"

    def write(error: Exception | None) -> None:
        with open_output(filesystem, "folder/part.parquet", schema) as output:
            output.write(batch)
            assert not path.exists() or error is None
            if error is not None:
                raise error

    with pytest.raises(KeyError):
        write(KeyError())
    assert not path.exists()
    with pytest.raises(UnavailableError, match="The disk is full: scoring was given up"):
        write(OSError(errno.ENOSPC, "No space left on device"))
    assert not path.exists()
    for _ in range(2):
        write(None)
        assert pq.read_table(path).num_rows == 2


def test_a_large_file_reaches_an_object_store_as_it_was_written(tmp_path: Path) -> None:
    table = pa.table({"a": np.random.default_rng(0).random(3_000_000)})
    with open_output(Place(f"file://{tmp_path}").open(), "folder/part.parquet", table.schema) as output:
        for batch in table.to_batches(100_000):
            output.write(batch)
    path = tmp_path / "folder" / "part.parquet"
    assert pq.read_table(path).equals(table)
    assert pq.read_metadata(path).num_row_groups == 10, "small batches share row groups"


def test_an_object_store_s_secrets_travel_and_are_not_shown() -> None:
    place = Place("s3://bucket/table", {"aws_secret_access_key": "hush"})
    assert "hush" not in repr(place)
    assert pickle.loads(pickle.dumps(place)).options["aws_secret_access_key"] == "hush"


def test_small_tasks_share_a_task_of_spark_s_and_none_is_lost() -> None:
    tasks = [Task(i, "f", 1, 0, rows, "x") for i, rows in enumerate([90, 50, 30, 30, 30, 10])]
    groups = group_tasks(tasks, rows=60)
    assert [[task.rows for task in some] for some in groups] == [[90], [50, 30], [30, 30], [10]]


def test_a_worker_that_scores_a_task_imports_none_of_the_driver_s_modules(tmp_path: Path) -> None:
    given = pickle.dumps((spec_in(tmp_path), Task(0, "file.parquet", 5, 0, ROWS, "x"), network()))
    code = (
        "import pickle, sys\n"
        "spec, task, model = pickle.load(sys.stdin.buffer)\n"
        "from forecache.scoring.tasks.task import TaskScorer\n"
        "TaskScorer(spec, lambda: model, str).score(task, lambda rows: None)\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'pyspark', 'pydantic', 'onnx', 'deltalake', 'forecache.declare'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, check=True, timeout=60)
    assert done.stdout.decode().strip() == "[]"
