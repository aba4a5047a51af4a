"""Whatever the bytes: each row of a landing file is given once, or the whole file is refused with a reason."""

import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from landing_files import (
    NAMES,
    SOURCE,
    Edits,
    csv_file,
    csv_records,
    edited,
    edits,
    json_file,
    json_lines,
    parquet_file,
    variants,
)
from spark_judge import FileFacts, parse

from forecache.base.settings import load_settings
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import ingested_files
from forecache.lake.ingest.parsing import ParsedRow
from forecache.lake.ingest.typed_files import FileReader, UnreadableFileError
from forecache.lake.ingest.typed_rows import JudgedRows, RowJudge

pytestmark = pytest.mark.slow
# Eight variants of each file: 2,400 files of each format.
many = hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def expect_rows_or_a_reason(name: str, content: bytes, num_rows: int | None) -> FileFacts:
    """Each row is given once by the careful parser, or the file is refused; the vectorised readers judge as it does."""
    facts, rows = parse(name, content, SOURCE)
    if facts.error is not None or num_rows is None:
        assert facts.error
        assert rows == []
    else:
        assert facts.counted_rows == num_rows == len(rows)
        places = [row.line for row in rows]
        assert places == sorted(set(places))
        for row in rows:
            assert row.error is None or set(row.values) == {None}
    expect_equal_judgements(name, content, facts, rows)
    return facts


def expect_equal_judgements(name: str, content: bytes, facts: FileFacts, rows: list[ParsedRow]) -> None:
    judge = RowJudge(SOURCE, SOURCE.start, keeps_content=True)
    reader = FileReader(io.BytesIO(content), name, judge)
    found, reason = read_all(reader)
    assert facts == (FileFacts(error=reason) if reason else FileFacts(reader.num_rows))
    if reason is None:
        assert rows_of(found) == rows_of([judge.judge_rows(rows)])
    assert reader.read_checksum() == hashlib.sha256(content).hexdigest()


def read_all(reader: FileReader) -> tuple[list[JudgedRows], str | None]:
    found = list[JudgedRows]()
    try:
        found += reader.read_rows()
    except UnreadableFileError as error:
        return found, str(error)
    return found, None


def rows_of(judged: list[JudgedRows]) -> list[str]:
    return [repr(row) for kind in ("good", "bad") for each in judged for row in getattr(each, kind).to_pylist()]


@many
@given(original=csv_file, several=variants)
def test_rows_of_any_csv_file_are_each_given_once(original: bytes, several: list[Edits]) -> None:
    for changes in several:
        expect_csv_rows(edited(original, changes))


@pytest.mark.parametrize("end", [b'"', b'"\n', b'"\n\n', b'"\r\n\r\n', b'1,2,"\n\n', b'"",\n\n', b'\n\n"'])
def test_a_quote_that_is_open_at_the_end_of_a_csv_file_is_found_also_before_blank_lines(end: bytes) -> None:
    expect_csv_rows(b"customer_id,at,amount\n1,2026-01-01,3\n" + end)


def expect_csv_rows(content: bytes) -> None:
    records = csv_records(content)
    facts = expect_rows_or_a_reason("2026-01-01.csv", content, None if records is None else len(records) - 1)
    try:
        content.decode()
        sound = records is not None and sorted(records[0].decode().split(",")) == sorted(NAMES)
    except UnicodeDecodeError:
        sound = False
    if sound:
        assert facts.error is None


@many
@given(original=json_file, several=variants)
def test_rows_of_any_json_lines_file_are_each_given_once(original: bytes, several: list[Edits]) -> None:
    for changes in several:
        expect_json_rows(edited(original, changes))


def expect_json_rows(content: bytes) -> None:
    lines = json_lines(content)
    facts = expect_rows_or_a_reason("2026-01-01.jsonl", content, len(lines))
    try:
        content.decode()
        assert facts.error in (None, "the file is empty")
    except UnicodeDecodeError:
        assert "not UTF-8" in str(facts.error)


@many
@given(file=parquet_file(), several=variants)
def test_rows_of_any_parquet_file_are_each_given_once(file: tuple[bytes, int], several: list[Edits]) -> None:
    content, num_rows = file
    facts = expect_rows_or_a_reason("2026-01-01.parquet", content, num_rows)
    kinds = pq.read_schema(io.BytesIO(content)).types
    if not any(pa.types.is_nested(kind) or kind in (pa.duration("s"), pa.float16()) for kind in kinds):
        assert facts.error is None
    for changes in several:
        damaged = edited(content, changes)
        expect_rows_or_a_reason(
            "2026-01-01.parquet", damaged, parse("2026-01-01.parquet", damaged, SOURCE)[0].counted_rows
        )


@hypothesis_settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    csvs=st.lists(st.tuples(csv_file, edits), min_size=20, max_size=20),
    jsons=st.lists(st.tuples(json_file, edits), min_size=20, max_size=20),
    parquets=st.lists(st.tuples(parquet_file(), edits), min_size=20, max_size=20),
)
def test_rows_of_any_file_are_ingested_once_or_the_file_is_in_quarantine_whole(
    tmp_path_factory: pytest.TempPathFactory, csvs: Any, jsons: Any, parquets: Any
) -> None:
    settings = load_settings(home=tmp_path_factory.mktemp("fuzz") / "home")
    folder = Path(settings.landing_uri) / SOURCE.name
    folder.mkdir(parents=True)
    expected: dict[str, int | None] = {}
    for number, (content, changes) in enumerate(csvs):
        content = edited(content, changes)
        records = csv_records(content)
        expected[f"2026-01-01.{number}.csv"] = None if records is None else len(records) - 1
        (folder / f"2026-01-01.{number}.csv").write_bytes(content)
    for number, (content, changes) in enumerate(jsons):
        content = edited(content, changes)
        expected[f"2026-01-01.{number}.jsonl"] = len(json_lines(content))
        (folder / f"2026-01-01.{number}.jsonl").write_bytes(content)
    for number, ((content, num_rows), changes) in enumerate(parquets):
        # Every other one is damaged; where that leaves a readable file, it has the rows that its footer says.
        content = edited(content, changes) if number % 2 else content
        name = f"2026-01-01.{number}.parquet"
        expected[name] = num_rows if not number % 2 else _footer_rows(content)
        (folder / name).write_bytes(content)
    ingest(settings, SOURCE)

    rows: Counter[str] = Counter()
    places = []
    for table in (SOURCE.raw_table, SOURCE.quarantine_table):
        if table_exists(settings, table):
            found = open_table(settings, table).to_pyarrow_table(columns=["source_file", "source_line"]).to_pylist()
            places += [(row["source_file"], row["source_line"]) for row in found]
    assert len(places) == len(set(places))
    rows.update(file for file, line in places if line > 0)
    entered = ingested_files(settings, SOURCE)
    assert sorted(file.file for file in entered) == sorted(expected)
    for file in entered:
        assert ((file.file, 0) in places) is (file.error is not None), file
        if file.error is None:
            assert rows[file.file] == file.landing_rows == expected[file.file], file
        else:
            assert rows[file.file] == 0, file


def _footer_rows(content: bytes) -> int | None:
    try:
        return int(pq.read_metadata(io.BytesIO(content)).num_rows)
    except (pa.ArrowException, OSError, ValueError):
        return None
