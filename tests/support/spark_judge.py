"""Landing rows judged by Spark's own casts and comparisons, which the judges without Spark have to equal."""

import csv
import io
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forecache.base.errors import InputError
from forecache.declare import Column, Source
from forecache.lake.ingest.landing import file_day
from forecache.lake.ingest.parsing import (
    CsvHeader,
    ParsedRow,
    column_names,
    parquet_column_names,
    parse_batch,
    parse_json_line,
    read_batches,
    require_declared_columns,
    require_texts,
    split_records,
    suffix_of,
)
from forecache.lake.ingest.row_count import BOM, count_rows, split_lines

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn


@dataclass(frozen=True)
class FileFacts:
    """What is known of a landing file that was read: its row count, or why it cannot be read."""

    counted_rows: int | None = None
    error: str | None = None


def inspect_file(name: str, content: bytes, source: Source) -> FileFacts:
    """Read a file by itself for its row count, and find out whether it is readable."""
    try:
        if file_day(source, name) is None:
            raise InputError("the file name has no day of the source")
        stream = io.BytesIO(content)
        counted = count_rows(stream, suffix_of(name))
        if name.endswith(".csv"):
            CsvHeader(content.removeprefix(BOM), source)
        elif name.endswith(".parquet"):
            require_declared_columns(parquet_column_names(stream), source)
            num_rows = 0
            for batch in read_batches(stream, column_names(source)):
                num_rows += len(batch)
                for column in column_names(source):
                    require_texts(column, batch.column(column))
            if num_rows != counted:
                raise InputError(f"the footer says {counted:,} rows and the file holds {num_rows:,}")
        return FileFacts(counted)
    except (InputError, ValueError, OSError, csv.Error, pa.ArrowException) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        known = isinstance(error, InputError)
        return FileFacts(error=text if known else f"not a readable file: {type(error).__name__}: {text}")


def parse(name: str, content: bytes, source: Source) -> tuple[FileFacts, list[ParsedRow]]:
    """What is known of a landing file, and its rows, each parsed by itself."""
    facts = inspect_file(name, content, source)
    if facts.error is not None:
        return facts, []
    text = content.removeprefix(BOM)
    if suffix_of(name) == "csv":
        header = CsvHeader(text, source)
        records = split_records(map(bytes.decode, split_lines(text[header.end :])), header.next_line)
        return facts, [header.parse_row(line, text) for line, text in records if text]
    if suffix_of(name) == "jsonl":
        rows = [parse_json_line(number, line, 0, source) for number, line in enumerate(split_lines(text), start=1)]
        return facts, [row for row in rows if row is not None]
    found, line = [], 1
    for batch in read_batches(io.BytesIO(content), column_names(source)):
        found += parse_batch(line, batch)
        line += len(batch)
    return facts, found


def judge_by_spark(spark: Any, name: str, content: bytes, source: Source, day: date) -> pa.Table:
    """The rows of a file with their texts, `typed_<column>`, and `reason`, which is null for a good row."""
    from pyspark.sql import functions as F

    _, parsed = parse(name, content, source)
    columns = "".join(f", `{column.name}` string" for column in source.columns)
    rows = spark.createDataFrame(
        [(row.line, row.content, row.error, *row.values) for row in parsed],
        f"source_line bigint, content string, error string{columns}",
    ).withColumn("event_day", F.lit(day))
    rows = rows.withColumns({f"typed_{c.name}": F.expr(f"try_cast(`{c.name}` AS {c.type})") for c in source.columns})
    reasons = [F.col("error"), *(reason for column in source.columns for reason in _column_reasons(column))]
    if source.event_time:
        reasons.append(_wrong_day_reason(source.event_time))
    return rows.withColumn("reason", F.coalesce(*reasons)).orderBy("source_line").toArrow()


def _wrong_day_reason(event_time: str) -> "SparkColumn":
    from pyspark.sql import functions as F

    return F.when(
        F.to_date(f"typed_{event_time}") != F.col("event_day"),
        F.format_string(
            f"{event_time} %s is not on the file's day %s", F.col(event_time), F.col("event_day").cast("string")
        ),
    )


def _column_reasons(column: Column) -> "list[SparkColumn]":
    from pyspark.sql import functions as F

    text, typed = F.col(column.name), F.col(f"typed_{column.name}")
    is_row = F.col("source_line") > 0
    reasons = [
        F.when(
            text.isNotNull() & typed.isNull(), F.format_string(f"{column.name} '%s' is not of type {column.type}", text)
        )
    ]
    if column.required:
        reasons.append(F.when(is_row & text.isNull(), F.lit(f"{column.name} is missing")))
    if column.type == "double":
        reasons.append(F.when(F.isnan(typed), F.lit(f"{column.name} is not a number")))
        infinite = F.abs(typed) == F.lit(float("inf"))
        reasons.append(F.when(infinite, F.format_string(f"{column.name} %s is not finite", text)))
    if column.type in ("date", "timestamp"):
        beyond = ~F.year(typed).between(1, 9999)
        reasons.append(F.when(beyond, F.format_string(f"{column.name} %s is outside the years 1 to 9999", text)))
    for bound, breaks, word in (
        (column.minimum, typed < F.lit(column.minimum), "below the minimum"),
        (column.maximum, typed > F.lit(column.maximum), "above the maximum"),
    ):
        if bound is not None:
            reasons.append(F.when(breaks, F.format_string(f"{column.name} %s is {word} {bound:g}", text)))
    return reasons
