"""Batch size of a run: the setting, or the result of a short measured sweep over a sample of the features.

A prediction has the same bits for any batch size, so the size affects time and memory only. A sweep's
result is kept in the stage ledger by model, kernel and memory setting: a resumed or nightly run does not measure again.
"""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.output_kinds import OutputSpec
from forecache.base.settings import Settings
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import place_of
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.inference.kernel_spec import KERNEL_VERSION, ScoringPlan
from forecache.scoring.night_inputs import ScoringNight, ScoringWork
from forecache.scoring.tasks.job import job_spec, local_scorer, model_features
from forecache.scoring.tasks.prediction_rows import file_schema

SIZES = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072)
SAMPLE_ROWS = 131_072
BUDGET_S = 0.8
# The smallest size within this share of the fastest wins: it takes less memory, and runs differ by more than this.
_TOLERANCE = 0.03
_BATCH_SHARE = 0.25
_VALUE_BYTES, _LISTED_VALUES = 8, 64
# A probability in the model's type, as float64, negated and sorted by class (measured: 32), and in Arrow with its class
# (21), also if most are not kept.
_CLASS_BYTES = 64

Score = Callable[[int, int], object]
"""`score(size, rows)` scores rows of a sample, a multiple of the size, in batches of that size."""


@dataclass(frozen=True)
class BatchSize:
    """The batch size of a run and its origin."""

    rows: int  # rows of a batch
    source: str  # "set", "calibrated" now, or "kept" from an earlier run
    batch_bytes: int | None = None  # memory of a batch: the features, the model's matrix and the predictions
    rows_per_second: float | None = None  # of one core at that size; None if the size was set
    rates: Mapping[int, float] = field(default_factory=dict)  # measured rows per second by size

    def metadata(self) -> dict[str, Any]:
        rates = {str(size): round(rate) for size, rate in self.rates.items()}
        return {"batch_rows": self.rows, "batch_source": self.source, "batch_bytes": self.batch_bytes, "rates": rates}


def calibrate(work: ScoringWork, nights: Sequence[ScoringNight]) -> BatchSize:
    """The batch size for nights: the setting, the result of an earlier run, or of a sweep of at most a second."""
    settings, pipeline, plan = work.settings, work.pipeline, work.plan
    if settings.scoring_batch_rows:
        return BatchSize(settings.scoring_batch_rows, "set")
    largest = max(nights, key=lambda night: night.files[0].rows)
    stage, wanted = f"calibrate_{work.stage}", min(SAMPLE_ROWS, largest.files[0].rows)
    memory = _memory(settings)
    model = f"{work.stamp.model_name}@{work.stamp.model_version}"
    inputs = calibration_inputs(settings, model, plan)

    def measure() -> StageOutcome:
        sample, keys, read_s = _read_sample(work, largest)
        outputs = job_spec(work, part_rows=0).layout.outputs
        a_row, num_rows = bytes_a_row(plan, sample, outputs), len(sample[0])
        sizes = [size for size in SIZES if size <= num_rows] or [num_rows]
        sizes = [size for size in sizes if size * a_row <= memory] or [max(1, int(memory / a_row))]
        rates = sweep(_as_a_worker(work, sample, keys), sizes, sample_rows=num_rows)
        rates = {size: 1 / (1 / rate + read_s / num_rows) for size, rate in rates.items()}
        return StageOutcome(num_rows, {"rates": rates, "bytes_a_row": a_row})

    # A sample of at least half the size is enough; a smaller one did not allow the larger batch sizes.
    row, kept = Stage(settings, stage, pipeline.name, work.run_id).run_once(
        inputs, measure, usable=lambda known: 2 * known.rows >= wanted
    )
    rates = {int(size): rate for size, rate in row.details["rates"].items()}
    return _choose_size(rates, "kept" if kept else "calibrated", row.details["bytes_a_row"], memory)


def calibration_inputs(settings: Settings, model: str, plan: ScoringPlan) -> str:
    """Text of all that the rates of a model (name@version) depend on."""
    return f"{model} {plan.spec.checksum} kernel={KERNEL_VERSION} memory={_memory(settings)}"


def sweep(
    score: Score,
    sizes: Sequence[int],
    *,
    sample_rows: int,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Measure rows per second by batch size, ascending and none above the sample, the best of two rounds.

    Sizes that do not fit the budget are left out, except for the first, so that a slow model is measured at the
    smallest sizes only.
    """
    rates: dict[int, float] = {}
    started = clock()
    score(sizes[0], sizes[0])  # the first call of a model is slower than others
    rate = 0.0
    for size in [*sizes, *sizes]:
        left = budget_s - (clock() - started)
        expected = size / rate if rate else 0.0
        if rates and expected > left:
            break
        share = rate * left / (2 * len(sizes))
        rows = max(1, int(min(sample_rows, share)) // size) * size
        began = clock()
        score(size, rows)
        rate = rows / max(clock() - began, 1e-9)
        rates[size] = max(rate, rates.get(size, 0.0))
    return rates


def fastest_size(rates: Mapping[int, float]) -> int:
    """The smallest size whose rate is within 3 % of the best."""
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= (1 - _TOLERANCE) * best)


def _choose_size(rates: Mapping[int, float], source: str, bytes_a_row: float, memory: int) -> BatchSize:
    size = fastest_size(rates)
    rows = min(max(size, SIZES[0]), max(1, int(memory / bytes_a_row)))
    return BatchSize(rows, source, round(rows * bytes_a_row), rates[size], rates)


def _memory(settings: Settings) -> int:
    return int(settings.scoring_worker_memory_mb * _BATCH_SHARE) << 20


def _read_sample(work: ScoringWork, night: ScoringNight) -> tuple[list[pa.Array], list[pa.Array], float]:
    """Read the first rows of a night's largest file: features in the model's order, keys, and the seconds it took."""
    import pyarrow.parquet as pq

    started = time.perf_counter()
    names = model_features(work.pipeline, work.plan.spec.inputs)
    table = work.pipeline.feature_table
    with open_data_file(place_of(work.settings, table).open(), night.files[0].path, table) as opened:
        parquet = pq.ParquetFile(opened)
        stored = [name for name in names if name in parquet.schema_arrow.names]
        batch = next(parquet.iter_batches(SAMPLE_ROWS, columns=[*work.pipeline.key, *stored], use_threads=False))
    features = [batch.column(name) if name in stored else pa.nulls(batch.num_rows, pa.float32()) for name in names]
    return features, [batch.column(name) for name in work.pipeline.key], time.perf_counter() - started


def bytes_a_row(plan: ScoringPlan, sample: Sequence[pa.Array], outputs: Sequence[OutputSpec]) -> float:
    """Memory that a row of a batch takes: its features, the model's matrix, and the predictions on their way."""
    came = sum(array.nbytes for array in sample) / len(sample[0])
    return came + len(sample) * np.dtype(plan.spec.dtype).itemsize + sum(map(_output_bytes, outputs))


def _output_bytes(output: OutputSpec) -> int:
    if output.kind == "structs":
        return 2 * _VALUE_BYTES * _LISTED_VALUES
    return (_CLASS_BYTES if output.kind == "classes" else 2 * _VALUE_BYTES) * (output.values or 1)


def _as_a_worker(work: ScoringWork, sample: list[pa.Array], keys: list[pa.Array]) -> Score:
    """A function that scores batches as a thread or a Spark task does, and writes them into memory."""
    import pyarrow.parquet as pq

    scorer = local_scorer(work)
    fields = [pa.field(name, key.type) for name, key in zip(work.pipeline.key, keys, strict=True)]
    schema = file_schema(scorer.spec.layout, fields)

    def score(size: int, rows: int) -> None:
        with pq.ParquetWriter(io.BytesIO(), schema, compression="snappy", use_dictionary=False) as writer:
            for first in range(0, rows, size):
                features = [array.slice(first, size) for array in sample]
                writer.write_batch(scorer.predict([key.slice(first, size) for key in keys], features, 0, schema))

    return score
