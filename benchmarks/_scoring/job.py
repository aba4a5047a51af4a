"""One measurement in a process of its own: `python -m _scoring.job NAME ARGUMENTS`, a JSON object as its last line."""

import dataclasses
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from _common.processes import cpu_s, with_children
from deltalake import DeltaTable

from _scoring.data import NAMES, NIGHT, PIPELINE, network, network_model, prepare, settings_of, tree_model
from _scoring.tuning import Setting, try_settings
from forecache.base.settings import Settings
from forecache.kit.delta.tables import open_table


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fresh(number: int) -> Any:
    """The pipeline with another limit of its output, beyond any score, so that its night is scored again."""
    return _limited(2.0 + number + os.getpid() / 2**22)


def _limited(maximum: float) -> Any:
    return dataclasses.replace(PIPELINE, outputs=(dataclasses.replace(PIPELINE.main_output, maximum=maximum),))


class Contenders:
    """The same features through each contender into a Delta table (key, prediction)."""

    def __init__(self, settings: Settings, model: str, *, peer: Setting | None = None) -> None:
        from forecache.kit.spark.session import spark_session

        self.settings, self.model = settings, model
        self.peer = peer
        self.spark = spark_session(settings)
        self.out = str(settings.home_path / "out")
        self._runs = 0

    @property
    def frame(self) -> Any:
        return self.spark.read.format("delta").load(self.settings.table_uri(PIPELINE.feature_table))

    def write(self, frame: Any) -> None:
        frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(self.out)

    def copy(self) -> None:
        self.write(self.frame.select("user_id", "f1"))

    def constant(self) -> None:
        """Spark's own part of a column function: the features go to a worker, which returns a number for each row."""
        from pyspark.sql import functions as F
        from pyspark.sql.pandas.functions import arrow_udf

        def half(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
            for batch in batches:
                yield pa.repeat(pa.scalar(0.5, pa.float32()), len(batch))

        self.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "10000")
        narrow = self.frame.select("user_id", F.array(*NAMES).alias("features"))
        answer = arrow_udf(half, returnType="float")
        self.write(narrow.select("user_id", answer("features").alias("prediction")))

    def mlflow(self) -> None:
        import mlflow.pyfunc
        from pyspark.sql import functions as F

        assert self.peer is not None
        # Python workers of its own: ours would lend it what they do once for all their tasks.
        self.spark.sparkContext.environment["CONTENDER"] = f"mlflow {self.peer.name}"
        self.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(self.peer.batch_rows))
        # A model that takes one array is one of tensors, and answers with an array for each row.
        of_tensors = self.peer.layout == "array"
        kind = "struct<probability: array<float>>" if of_tensors else "double"
        model = mlflow.pyfunc.spark_udf(self.spark, self.peer.model, env_manager="local", result_type=kind)
        known = [F.coalesce(F.col(name), F.lit(float("nan")).cast("float")) for name in NAMES]
        answer = model(F.array(*known))["probability"][0] if of_tensors else model(F.struct(*NAMES))
        self.write(self.frame.select("user_id", answer.alias("prediction")))
        del self.spark.sparkContext.environment["CONTENDER"]

    def map_in_arrow(self) -> None:
        """What somebody writes by hand: `mapInArrow` over the columns, with a session of one thread for each task."""
        model = network(len(NAMES))

        def scored(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for batch in batches:
                features = np.empty((len(batch), batch.num_columns - 1), np.float32)
                for place in range(batch.num_columns - 1):
                    features[:, place] = batch.column(place + 1).to_numpy(zero_copy_only=False)
                prediction = pa.array(session.run(None, {"x": features})[0][:, 0])
                yield pa.RecordBatch.from_arrays([batch.column(0), prediction], ["user_id", "prediction"])

        self.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "10000")
        narrow = self.frame.select("user_id", *NAMES)
        self.write(narrow.mapInArrow(scored, "user_id string, prediction float"))

    def udf(self) -> None:
        from pyspark.sql import functions as F

        from forecache.scoring import scoring_udf

        self.spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "10000")
        model = scoring_udf(self.spark, self.model)
        narrow = self.frame.select("user_id", F.array(*NAMES).alias("features"))
        self.write(narrow.select("user_id", model("features").alias("prediction")))

    def score(self) -> None:
        """The whole stage: every column of the prediction table, the checks, the ledger."""
        from forecache.scoring.run import score

        self._runs += 1
        score(self.settings, fresh(self._runs), [NIGHT], run_id="benchmark", mode="full")


def tune(home: str, rows: int, trees: bool) -> dict[str, Any]:
    """Seconds of mlflow's UDF at every setting, and the fastest of them."""
    prepare(Path(home), rows)
    settings, folder = settings_of(Path(home)), Path(home)
    contenders = Contenders(settings, tree_model(folder) if trees else network_model(folder))
    seconds = try_settings(contenders, folder, trees=trees)
    return {"rows": rows, "seconds": seconds, "best": min(seconds, key=lambda name: seconds[name])}


def warm(
    home: str, rows: int, repeats: int, cores: int, which: list[str], trees: bool, setting: str = ""
) -> dict[str, Any]:
    """Seconds of each contender, in turns, after one turn that does not count; mlflow's UDF at a setting."""
    prepare(Path(home), rows)
    settings, folder = settings_of(Path(home), cores=cores), Path(home)
    peer = Setting.named(setting, folder, trees=trees) if setting else None
    contenders = Contenders(settings, tree_model(folder) if trees else network_model(folder), peer=peer)
    seconds: dict[str, list[float]] = {name: [] for name in which}
    for turn in range(repeats + 1):
        for name in which:
            took = timed(getattr(contenders, name))
            if turn:
                seconds[name].append(took)
    return {"seconds": seconds, "mlflow_setting": setting}


def cold(home: str, rows: int, which: str, copy_first: bool, setting: str) -> dict[str, Any]:
    """Seconds of the session's start, the same for all, and of the contender's first run in it, from opening the
    table on: its imports here and in the workers, its first query, the model; of `score` to the committed night.

    Args:
        copy_first: Copy two columns before, so that the JVM has compiled what both need of it.
        setting: Of mlflow's UDF: the one that was its best when warm.
    """
    prepare(Path(home), rows)
    settings, model = settings_of(Path(home), jvm="auto"), network_model(Path(home))
    started = time.perf_counter()
    contenders = Contenders(settings, model, peer=Setting.named(setting, Path(home), trees=False))
    session_s = time.perf_counter() - started
    if copy_first:
        contenders.copy()
    me = psutil.Process()
    cpu = cpu_s(with_children(me))
    run_s = timed(getattr(contenders, which))
    return {"session_s": session_s, "run_s": run_s, "cpu_s": cpu_s(with_children(me)) - cpu}


def arrow(home: str, rows: int, repeats: int) -> dict[str, Any]:
    """The engine without a JVM: seconds of the whole stage, and the process's largest memory."""
    from forecache.scoring.run import score

    settings = prepare(Path(home), rows)
    seconds = [
        timed(lambda turn=turn: score(settings, fresh(turn), [NIGHT], engine="arrow", mode="full"))  # type: ignore[misc]
        for turn in range(repeats + 1)
    ]
    return {"seconds": seconds[1:], "first_s": seconds[0], "peak_bytes": _peak_bytes()}


def alone(home: str, rows: int, repeats: int, which: str) -> dict[str, Any]:
    """A peer without a JVM: seconds from the feature table to a Delta table of keys and predictions."""
    from _scoring.alone import ALONE

    settings = prepare(Path(home), rows)
    table, out = settings.table_uri(PIPELINE.feature_table), str(settings.home_path / f"out-{which}")
    seconds = [timed(lambda: ALONE[which](table, out)) for _ in range(repeats + 1)]
    return {"seconds": seconds[1:], "first_s": seconds[0], "peak_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    """VmHWM of this process, which starts no other."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answers(home: str, rows: int, setting: str) -> dict[str, Any]:
    """How far the contenders' predictions lie from one another: the largest difference of any from the stage's."""
    from _scoring.alone import ALONE

    settings = settings_of(Path(home))
    prepare(Path(home), rows)
    peer = Setting.named(setting, Path(home), trees=False)
    contenders = Contenders(settings, network_model(Path(home)), peer=peer)
    contenders.score()
    stage = open_table(settings, PIPELINE.prediction_table).to_pyarrow_table(
        columns=["user_id", PIPELINE.main_output.name]
    )
    wanted = stage.sort_by("user_id")[PIPELINE.main_output.name].to_numpy()
    found = {}
    for name in ("udf", "mlflow", "map_in_arrow", *ALONE):
        out = contenders.out
        if name in ALONE:
            out = f"{contenders.out}-{name}"
            ALONE[name](settings.table_uri(PIPELINE.feature_table), out)
        else:
            getattr(contenders, name)()
        got = DeltaTable(out).to_pyarrow_table().sort_by("user_id")["prediction"].to_numpy()
        found[name] = float(np.abs(got - wanted).max())
    return {"rows": len(wanted), "largest_difference": found}


def incremental(home: str, rows: int, share: float, repeats: int, trees: bool, setting: str = "") -> dict[str, Any]:
    """Seconds of mlflow's UDF and of full runs, then of runs after updates of a share of the entities, on a copy of the
    home; the first of each does not count."""
    source, folder = Path(home), Path(home).with_name(f"{Path(home).name}-incremental")
    prepare(source, rows)
    shutil.rmtree(folder, ignore_errors=True)
    leave = shutil.ignore_patterns("out", PIPELINE.prediction_table)
    shutil.copytree(source, folder, ignore=leave)
    settings = settings_of(folder)
    from scoring_support import register_model

    from forecache.scoring.run import score

    path = tree_model(folder) if trees else network_model(folder)
    model = register_model(settings, PIPELINE, folder=Path(path)) if trees else None
    peer = Setting.named(setting, folder, trees=False) if setting else None
    contenders = Contenders(settings, path, peer=peer)
    declaration = fresh(0)
    seconds: dict[str, list[float]] = {"mlflow_s": [], "full_s": [], "incremental_s": []}
    for _ in range(0 if trees else repeats + 1):
        seconds["mlflow_s"].append(timed(contenders.mlflow))
    for turn in range(repeats + 1):
        declaration = fresh(turn)
        seconds["full_s"].append(
            timed(lambda: score(settings, declaration, [NIGHT], mode="full", model=model))  # noqa: B023
        )
    for turn in range(repeats + 1):
        _update(settings, share, seed=turn)
        started = time.perf_counter()
        result = score(settings, declaration, [NIGHT], mode="auto", model=model)
        seconds["incremental_s"].append(time.perf_counter() - started)
        assert result.details["carried_rows"] == rows - int(rows * share), result.details
    shutil.rmtree(folder)
    return {name: samples[1:] for name, samples in seconds.items() if samples}


def _update(settings: Settings, share: float, *, seed: int) -> None:
    from scoring_support import enter_features

    table = open_table(settings, PIPELINE.feature_table)
    keys = table.to_pyarrow_table(columns=["user_id", "as_of"])
    rng = np.random.default_rng(seed)
    chosen = keys.take(pa.array(rng.choice(keys.num_rows, int(keys.num_rows * share), replace=False)))
    for name in NAMES:
        chosen = chosen.append_column(name, pa.array(rng.standard_normal(chosen.num_rows, dtype=np.float32)))
    table.merge(
        chosen, "t.user_id = s.user_id AND t.as_of = s.as_of", source_alias="s", target_alias="t"
    ).when_matched_update_all().execute()
    enter_features(settings, PIPELINE, rows=keys.num_rows)


def make(home: str, rows: int) -> dict[str, Any]:
    """The tables, in a process whose memory does not count."""
    prepare(Path(home), rows)
    return {}


def one_run(home: str, number: int) -> dict[str, Any]:
    """A run that may be killed: says when the session is ready and how far it is."""
    from forecache.kit.spark.session import spark_session
    from forecache.scoring.run import score

    settings = settings_of(Path(home))
    spark_session(settings)
    print("ready", flush=True)
    started = time.perf_counter()
    result = score(settings, _killed(number), [NIGHT], run_id="kill", mode="full")
    return {"seconds": time.perf_counter() - started, "scored_rows": result.details.get("scored_rows", 0)}


def _killed(number: int) -> Any:
    return _limited(1e6 + number)


def kept(home: str, number: int) -> dict[str, Any]:
    """Rows of a killed run that the next one will find, and how many more it can have scored: on each of two cores the
    part under way.
    """
    from forecache.lake.ledger import last_records
    from forecache.models.registry.model_versions import champion
    from forecache.scoring.night_inputs import STAGE, describe_nights
    from forecache.scoring.partitions.shards import list_staged

    settings, pipeline = settings_of(Path(home)), _killed(number)
    before = last_records(settings, STAGE, pipeline.name)
    night = describe_nights(settings, pipeline, champion(settings, pipeline), [NIGHT], before)[0]
    staged = list_staged(settings, pipeline.prediction_table, night)
    parts = [file.rows for files in staged.values() for file in files]
    return {"rows": sum(parts), "lost_at_most": 2 * max(parts, default=night.rows)}


JOBS = {job.__name__: job for job in (make, tune, warm, cold, arrow, alone, answers, incremental, one_run, kept)}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](**json.loads(sys.argv[2]))), flush=True)
