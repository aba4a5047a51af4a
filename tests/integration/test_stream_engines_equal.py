"""Both engines of streams give the same rows, to the bit."""

from datetime import datetime, timedelta, timezone
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from spark_stream_jobs import spark_settings
from stream_avro import AVRO_POISON, avro_payment, avro_topic
from stream_night import KNOWN, write_customers
from stream_sample import PACE, POISON, START, EmptyNight, a_stream, payment, release
from stream_truth import plain

from forecache.base.settings import Settings
from forecache.plugins.spark_stream.source import judge_frame, split_judged
from forecache.stream.step import StepResult, StreamStep
from forecache.stream.table.schema import KAFKA_AT, MESSAGES, OFFSET, PARTITION, RECEIVED_AT

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a home with a release of the model that answers."""
    settings = spark_settings(tmp_path_factory.mktemp("engines") / "home", "localhost:9092")
    release(settings)
    return settings


@st.composite
def sequences(draw: st.DrawFn) -> list[tuple[int, bytes | None]]:
    """Messages with their partitions: payments of few customers, late, repeated and out of order, and poison."""
    found: list[tuple[int, bytes | None]] = []
    for number in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["new", "new", "new", "late", "again", "poison"]))
        if kind == "poison":
            value: bytes | None = draw(st.sampled_from(POISON))
        elif kind == "again" and found:
            value = draw(st.sampled_from(found))[1]
        else:
            hours = draw(st.integers(-90, -10)) if kind == "late" else draw(st.integers(0, 20))
            at = START + timedelta(hours=hours, seconds=draw(st.integers(0, 4000)))
            value = payment(
                number,
                at=at.isoformat().replace("+00:00", "Z"),
                customer_id=draw(st.integers(1, 3)),
                amount=draw(st.floats(0, 10_000, allow_nan=False)),
            )
        found.append((draw(st.integers(0, 2)), value))
    return found


def messages_of(sequence: list[tuple[int, bytes | None]]) -> pa.Table:
    """The messages in the order in which Kafka got them."""
    offsets = [sum(other == partition for other, _ in sequence[:i]) for i, (partition, _) in enumerate(sequence)]
    at = [datetime(2026, 3, 3, tzinfo=timezone.utc) + timedelta(milliseconds=i) for i in range(len(sequence))]
    columns = {
        PARTITION: [partition for partition, _ in sequence],
        OFFSET: offsets,
        KAFKA_AT: at,
        RECEIVED_AT: [datetime.now(timezone.utc)] * len(sequence),
        "value": [value for _, value in sequence],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in MESSAGES], schema=MESSAGES)


def step_of(settings: Settings, *, night: Any = EmptyNight, **declared: Any) -> StreamStep:
    """A step of the stream of payments; without a `night`, its view stands on the one that the store serves."""
    bases = None if night is None else lambda view: night()
    step = StreamStep(settings, a_stream(**declared), bases=bases)
    step.answerer.switch_to(step.answerer.find_newer())
    return step


def batches(messages: pa.Table, cuts: list[int]) -> list[pa.Table]:
    edges = [0, *sorted(cut % (messages.num_rows + 1) for cut in cuts), messages.num_rows]
    return [messages.slice(a, b - a) for a, b in zip(edges, edges[1:], strict=False) if b > a]


def by_arrow(step: StreamStep, messages: pa.Table, cuts: list[int]) -> list[StepResult]:
    return [step.run(batch) for batch in batches(messages, cuts)]


def by_spark(spark: "SparkSession", step: StreamStep, messages: pa.Table, cuts: list[int]) -> list[StepResult]:
    """As the driver has the batches: in any order, of several tasks."""
    found = []
    for batch in batches(messages, cuts):
        reversed_rows = batch.take(pa.array(range(batch.num_rows - 1, -1, -1), pa.int64()))
        frame = spark.createDataFrame(reversed_rows.select([PARTITION, OFFSET, KAFKA_AT, "value"])).repartition(2)
        found.append(step.answer(*split_judged(judge_frame(frame, step.judge).toArrow(), step.judge)))
    return found


def whole(answered: list[StepResult], part: str) -> list[dict[str, Any]]:
    rows = pa.concat_tables([getattr(each, part) for each in answered]).to_pylist()
    return [{name: _bits(value) for name, value in plain(row).items()} for row in rows]


def _bits(value: Any) -> Any:
    """The bits of a float, and of those in a list; other values as they are."""
    if isinstance(value, list):
        return tuple(map(_bits, value))
    return value.hex() if isinstance(value, float) else value


@given(
    sequence=sequences(), cuts=st.lists(st.integers(0, 25), max_size=2), other=st.lists(st.integers(0, 25), max_size=4)
)
# A smaller example of a failure would take minutes to find: each try is several jobs of Spark.
@hypothesis_settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
def test_any_events_in_any_batches_give_the_same_rows(
    spark: "SparkSession",
    answering: Settings,
    sequence: list[tuple[int, bytes | None]],
    cuts: list[int],
    other: list[int],
) -> None:
    messages = messages_of(sequence)
    assert_equal(by_arrow(step_of(answering), messages, other), by_spark(spark, step_of(answering), messages, cuts))


def assert_equal(one: list[StepResult], two: list[StepResult]) -> None:
    """Rows, bad messages, counts and tiles of two engines."""
    assert whole(one, "rows") == whole(two, "rows")
    by_offset = itemgetter(PARTITION, OFFSET)
    assert sorted(whole(one, "bad"), key=by_offset) == sorted(whole(two, "bad"), key=by_offset)
    for count in ("repeats", "late", "failed"):
        assert sum(getattr(each, count) for each in one) == sum(getattr(each, count) for each in two)
    last = [{name: dict(_last_of(found, name)) for name in ("customer",)} for found in (one, two)]
    assert last[0] == last[1]  # the tiles of the live layer


def _last_of(answered: list[StepResult], view: str) -> list[tuple[bytes, bytes]]:
    return [(key, entry) for each in answered for key, _, entry in each.live[view]]


@pytest.mark.parametrize("case", ["avro", "pipeline", "night", "features"])
def test_avro_a_pipelines_answers_and_a_night_with_keys_give_the_same_rows(
    spark: "SparkSession", answering: Settings, case: str
) -> None:
    declared: dict[str, Any] = {
        "avro": {"topic": avro_topic("payments")},
        "pipeline": {"answers": PACE},
        "night": {"night": None},
        "features": {"keep_features": True},
    }[case]
    if case == "night":
        write_customers(answering)
    made, poison = (avro_payment, AVRO_POISON) if case == "avro" else (payment, POISON)
    values = [made(number) for number in range(40)]
    for place, each in enumerate((*poison, *(made(number) for number in range(0, 30, 7)))):
        values.insert(3 * place, each)
    messages = messages_of([(number % 3, value) for number, value in enumerate(values)])
    one = by_arrow(step_of(answering, **declared), messages, [1, 17, 30])
    assert_equal(one, by_spark(spark, step_of(answering, **declared), messages, [20]))
    rows = whole(one, "rows")
    assert len(rows) == 40
    assert sum(each.bad.num_rows for each in one) == len(poison)
    assert sum(each.failed for each in one) == 0
    if case == "pipeline":
        assert {row["band"] for row in rows} == {"slow", "quick"}
    else:
        assert len({row["score"] for row in rows}) > 20
    if case == "features":
        assert one[0].rows.column_names == step_of(answering, **declared).schema.names
        assert len({row["features"] for row in rows}) == 40
    assert {row["feature_version"] for row in rows} == {"customer=2026-03-01@" + ("0" if case == "night" else "7")}
    if case == "night":
        without = whole(by_arrow(step_of(answering), messages, []), "rows")
        changed = {a["customer_id"] for a, b in zip(rows, without, strict=True) if a["score"] != b["score"]}
        assert changed == set(range(KNOWN))
