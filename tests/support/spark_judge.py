"""Landing rows judged by Spark's own casts and comparisons, which the judges without Spark have to equal."""

import io
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.declare import Column, Source
from forecache.lake.ingest.parsing import (
    CsvHeader,
    FileFacts,
    ParsedRow,
    column_names,
    inspect_file,
    parse_batch,
    parse_json_line,
    read_batches,
    split_records,
    suffix_of,
)
from forecache.lake.ingest.row_count import BOM, split_lines

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column as SparkColumn


def parse(name: str, content: bytes, source: Source) -> tuple[FileFacts, list[ParsedRow]]:
    """What is known of a landing file, and its rows, each parsed by itself."""
    stream = io.BytesIO(content)
    facts = inspect_file(name, stream, source)
    if facts.error is not None:
        return facts, []
    if suffix_of(name) == "csv":
        header = CsvHeader(stream, source)
        records = split_records(map(bytes.decode, stream), header.next_line)
        return facts, [header.parse_row(line, text) for line, text in records if text]
    if suffix_of(name) == "jsonl":
        lines = split_lines(content.removeprefix(BOM))
        rows = [parse_json_line(number, line, 0, source) for number, line in enumerate(lines, start=1)]
        return facts, [row for row in rows if row is not None]
    found, line = [], 1
    for batch in read_batches(stream, column_names(source)):
        found += parse_batch(line, batch)
        line += len(batch)
    return facts, found


def judge_by_spark(spark: Any, name: str, content: bytes, source: Source, day: date) -> "pa.Table":
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
