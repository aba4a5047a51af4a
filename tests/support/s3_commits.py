"""Writers that commit to one table at once, by Spark and by delta-rs, each of which says what it is about to do.

A writer logs its intent before each commit and, once the commit is acknowledged, the version. One that was killed is
started again and first looks in the table's history for the intent that was not acknowledged, as a stage of the main
job looks for its own work. Whatever happened, the history then holds every intent once.
"""

import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from forecache.base.settings import Settings, load_settings

TABLE = "commits"
ROWS = 3
INTENT = "intent"
KILLED = "killed.enough"
"""File that is there once no writer is killed any more."""


@dataclass(frozen=True)
class Writer:
    """What a writer's process is told.

    Args:
        settings: Of `load_settings`.
        count: Commits to make in all, those of its earlier lives included.
        read_after: Spark only: once this file exists, read the table and write what was read beside it.
    """

    name: str
    kind: Literal["spark", "delta-rs"]
    count: int
    folder: str
    settings: dict[str, Any] = field(hash=False)
    read_after: str = ""

    @property
    def last_after_kills(self) -> int:
        """The number of the first commit that it makes only after all kills: none is to come too late."""
        return self.count - 2

    @property
    def log(self) -> Path:
        return Path(self.folder) / f"{self.name}.log"

    def command(self) -> list[str]:
        """The process's command line; the settings are read from a file, for they hold secrets."""
        file = Path(self.folder) / f"{self.name}.json"
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            json.dump(asdict(self), opened)
        return [sys.executable, __file__, str(file)]

    def said(self) -> tuple[list[int], dict[int, int]]:
        """What the log holds: the intents in order, and the version of each that was acknowledged."""
        lines = [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []
        intents = [int(words[1]) for words in lines if words[0] == INTENT]
        return intents, {int(words[1]): int(words[2]) for words in lines if words[0] == "done"}


def write(writer: Writer) -> None:
    """Make the commits that are missing, one after the other."""
    settings = load_settings(**writer.settings)
    intents, done = writer.said()
    with writer.log.open("a") as log:

        def say(*words: object) -> None:
            log.write(" ".join(map(str, words)) + "\n")
            log.flush()
            os.fsync(log.fileno())

        if intents and intents[-1] not in done:
            version = find(settings, f"{writer.name}-{intents[-1]}")
            say("done", intents[-1], version) if version is not None else say("lost", intents[-1])
        missing = [number for number in range(writer.count) if number not in writer.said()[1]]
        for number in missing:
            if number >= writer.last_after_kills:
                _wait_for(Path(writer.folder) / KILLED)
            say(INTENT, number)
            say("done", number, append(settings, writer, number))
    if writer.read_after:
        _read_with_spark(settings, Path(writer.read_after))


def append(settings: Settings, writer: Writer, number: int) -> int:
    """Commit one intent's rows; returns the Delta version."""
    import pyarrow as pa
    from deltalake import Schema

    from forecache.kit.delta.commit import Change, Target, commit
    from forecache.kit.delta.writers import write_frame, write_rows

    if writer.kind == "spark":
        from forecache.kit.spark.session import spark_session

        rows = [(writer.name, number, row) for row in range(ROWS)]
        frame = spark_session(settings).createDataFrame(rows, "writer string, number bigint, row bigint")
        schema, files = write_frame(frame.coalesce(1), settings, TABLE)
    else:
        table = pa.table({"writer": [writer.name] * ROWS, "number": [number] * ROWS, "row": list(range(ROWS))})
        schema, files = Schema.from_arrow(table.schema), write_rows(table, settings, TABLE)
    target = Target(settings, TABLE, schema)
    return commit(target, lambda _: Change(files), note={INTENT: f"{writer.name}-{number}"})


def find(settings: Settings, intent: str) -> int | None:
    """The version that committed an intent; None where none did."""
    found = [version for version, known in history(settings) if known == intent]
    assert len(found) <= 1, f"{intent} was committed by the versions {found}"
    return found[0] if found else None


def history(settings: Settings) -> list[tuple[int, str]]:
    """Every version of the table that an intent made, and the intent."""
    from forecache.kit.delta.tables import open_table, table_exists

    if not table_exists(settings, TABLE):
        return []
    return [(entry["version"], entry[INTENT]) for entry in open_table(settings, TABLE).history() if INTENT in entry]


def check(settings: Settings, writers: list[Writer]) -> dict[str, Any]:
    """Compare the table with what its writers said; returns figures.

    Raises:
        AssertionError: A commit is lost, is there twice, or is another than its writer was told.
    """
    from forecache.kit.delta.tables import open_table

    expected = {f"{writer.name}-{number}" for writer in writers for number in range(writer.count)}
    told = {f"{writer.name}-{number}": version for writer in writers for number, version in writer.said()[1].items()}
    found = history(settings)
    counts = Counter(intent for _, intent in found)
    assert [intent for intent, count in counts.items() if count > 1] == [], "committed twice"
    assert sorted(expected - set(counts)) == [], "lost"
    assert sorted(set(counts) - expected) == [], "of nobody"
    assert {intent: version for version, intent in found} == told, "told another version"
    table = open_table(settings, TABLE)
    rows = Counter(tuple(row.values()) for row in table.to_pyarrow_table(columns=["writer", "number"]).to_pylist())
    assert rows == rows_expected(writers)
    versions = sorted(version for version, _ in found)
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    return {"commits": len(found), "version": table.version(), "rows": rows.total()}


def rows_expected(writers: list[Writer]) -> Counter[tuple[Any, ...]]:
    return Counter({(writer.name, number): ROWS for writer in writers for number in range(writer.count)})


def _read_with_spark(settings: Settings, go: Path) -> None:
    from forecache.kit.delta.tables import read_table
    from forecache.kit.spark.session import spark_session

    _wait_for(go)
    rows = read_table(spark_session(settings), settings, TABLE).groupBy("writer", "number").count().collect()
    unfinished = go.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([list(row) for row in rows]))
    unfinished.rename(go.with_suffix(".json"))


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.1)


if __name__ == "__main__":
    write(Writer(**json.loads(Path(sys.argv[1]).read_text())))
