"""Point-in-time look-ups of past requests in Spark, and the transform, called with the same arguments as in serving."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from forecache.base.errors import ForecacheError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import EVENT_TIMESTAMP, POSITION, REQUEST_ID
from forecache.declare import AS_OF, FeatureView, Lookup, Realtime
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.code.location import ImportableFunction
from forecache.declare.realtime.request_rows import RowsBuilder, apply_transform
from forecache.kit.delta.errors import REFUSED
from forecache.lake.feature_rows import age_s, visible_date
from forecache.lake.sources import Pins
from forecache.plugins.historical_features.live_features import live_features
from forecache.plugins.historical_features.night_features import load_night_features

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


_SEEN, _KEY = "forecache_seen", "forecache_key_"


def matrix_column(lookup: str) -> str:
    """Name of the column with the features of a look-up."""
    return f"forecache_view_{lookup}"


def look_up(
    spark: "SparkSession",
    settings: Settings,
    realtime: Realtime,
    requests: "DataFrame",
    *,
    pins: Pins | None = None,
    progress: Progress = no_progress,
) -> "DataFrame":
    """The rows of requests with a column for each look-up: an array of float in the order of `Lookup.columns`, NaN for
    a feature that is null; null if the view has no row of the key, or one older than `Lookup.max_age_h`.

    A request sees the as-of date that had ended, and was published, when it was made; after the end of a view's data,
    its last. Of a live view it sees all events before the moment at which it was made, whatever was published.
    """
    for lookup in realtime.lookups:
        if lookup.view.live is not None:
            requests = live_features(
                spark,
                settings,
                lookup.view,
                requests,
                by=lookup.by,
                timestamp=EVENT_TIMESTAMP,
                column=matrix_column(lookup.called),
                pins=pins,
                progress=progress,
            )
            continue
        seen = visible_date(EVENT_TIMESTAMP, lookup.view, published_h=realtime.trained_examples.published_h)
        requests = _join_features(spark, settings, lookup, requests, seen, pins, progress)
    return requests


def _join_features(
    spark: "SparkSession",
    settings: Settings,
    lookup: Lookup,
    requests: "DataFrame",
    seen: "Column",
    pins: Pins | None,
    progress: Progress,
) -> "DataFrame":
    from pyspark.sql import functions as F

    view, column, names = lookup.view, matrix_column(lookup.called), requests.columns
    nights = sorted(row[0] for row in requests.select(seen).distinct().collect() if row[0] is not None)
    if not nights:
        return requests.withColumn(column, F.lit(None).cast("array<float>"))
    keys = [f"{_KEY}{place}" for place in range(len(view.key))]
    by = [F.col(f"`{name}`").alias(key) for name, key in zip(lookup.by, view.key, strict=True)]
    rows = requests.select(*by, seen.alias(AS_OF))
    known = load_night_features(spark, settings, view, nights, asked=rows, pins=pins, progress=progress).select(
        *(F.col(name).alias(key) for name, key in zip(view.key, keys, strict=True)),
        F.col(AS_OF).alias(_SEEN),
        _served_array(view).alias(column),
    )
    asked = requests.withColumn("forecache_asked", seen)
    same = [asked[f"`{name}`"] == known[key] for name, key in zip(lookup.by, keys, strict=True)]
    joined = asked.join(known, [asked["forecache_asked"] == known[_SEEN], *same], "left")
    found = F.col(column)
    if lookup.max_age_h is not None:
        found = F.when(age_s(EVENT_TIMESTAMP, _SEEN) <= 3600 * lookup.max_age_h, found)
    return joined.select(*(f"`{name}`" for name in names), found.alias(column))


def _served_array(view: FeatureView) -> "Column":
    """The features of a view's row as they are served: an array of float, NaN for null."""
    from pyspark.sql import functions as F

    unknown = F.lit(float("nan")).cast("float")
    parts = []
    for feature in view.served_features:
        if feature.size:
            numbers = F.transform(F.col(feature.name).cast("array<float>"), lambda number: F.coalesce(number, unknown))
            parts.append(F.coalesce(numbers, F.array_repeat(unknown, feature.size)))
        else:
            parts.append(F.array(F.coalesce(F.col(feature.name).cast("float"), unknown)))
    return F.concat(*parts)


def transform_requests(rows: "DataFrame", realtime: Realtime, *, files: int) -> "DataFrame":
    """`request_id`, `position`, `as_of`, `split`, the features (float), the label and its weight, in a fixed order.

    `rows` are of requests with their look-ups. The job that reads the result fails if a request is not valid; see
    `as_refusal`.
    """
    labels = realtime.trained_examples.columns
    fields = [*(f"{name} float" for name in realtime.feature_names), *(f"{name} double" for name in labels)]
    schema = ", ".join([f"{REQUEST_ID} string", f"{POSITION} int", f"{AS_OF} date", "split string", *fields])
    ordered = rows.repartition(files, REQUEST_ID).sortWithinPartitions(REQUEST_ID, POSITION)
    called: Any = request_transformer(realtime)
    return ordered.mapInArrow(called, schema)


def request_transformer(realtime: Realtime) -> "RequestTransformer":
    """The function to map over partitions; in each of these the requests are whole and their rows in order."""
    of, request = realtime.trained_examples, tuple(field.name for field in realtime.request)
    weight = (of.weight,) if of.weight and of.kind == "ranking" else ()
    return RequestTransformer(
        realtime.name,
        RowsBuilder(realtime),
        ImportableFunction.from_path(realtime.transform_path),
        _fingerprint_of(realtime.transform),
        realtime.feature_names,
        request,
        tuple(field.name for field in realtime.candidates.fields) if realtime.candidates else (),
        realtime.candidates.most if realtime.candidates else 1,
        {each.called: (len(each.columns), set(each.by) <= set(request)) for each in realtime.lookups},
        (EVENT_TIMESTAMP, *request, *weight),
        of.columns,
    )


_EVERY_ROW_HAS = {
    POSITION: "Number the candidates of a request from 0.",
    EVENT_TIMESTAMP: "Return when the request was made, for each of its rows.",
}
_COPIED = (REQUEST_ID, POSITION, AS_OF, "split")


@dataclass(frozen=True)
class RequestTransformer:
    """Calls the transform for the requests of a partition, in a Spark worker."""

    name: str
    builder: RowsBuilder
    transform: ImportableFunction
    code: str
    features: tuple[str, ...]
    request: tuple[str, ...]
    candidates: tuple[str, ...]
    most: int
    lookups: Mapping[str, tuple[int, bool]]
    constant: tuple[str, ...]
    labels: tuple[str, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            transform = self.transform.load(code=self.code, described=_fingerprint_of, to="transform requests")
            for batch in whole_requests(batches):
                yield self._transform_batch(batch, transform)
        except ForecacheError as error:
            raise ValueError(f"{REFUSED} {error}".replace("\n", " ")) from None

    def _transform_batch(self, batch: pa.RecordBatch, transform: Callable[..., Any]) -> pa.RecordBatch:
        starts = request_starts(batch.column(REQUEST_ID))
        self._check(batch, starts)
        ends = np.append(starts[1:], batch.num_rows)
        first = batch.take(pa.array(starts))
        requests = {name: first.column(name).to_pylist() for name in self.request}
        fields = {name: _field_values(batch.column(name)) for name in self.candidates}
        looked = {
            name: _feature_matrix(batch.column(matrix_column(name)), width) for name, (width, _) in self.lookups.items()
        }
        features = np.empty((batch.num_rows, len(self.features)), np.float32)
        for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            candidates = {name: values[start:end] for name, values in fields.items()}
            columns = self.builder.build_columns({n: v[number] for n, v in requests.items()}, candidates or None)
            # As in serving: a look-up by fields of the request alone has one row.
            ends_of = {name: start + 1 if by_request else end for name, (_, by_request) in self.lookups.items()}
            views = {name: matrix[start : ends_of[name]] for name, (matrix, _) in looked.items()}
            found = {name: known[start : ends_of[name]] for name, (_, known) in looked.items()}
            rows = self.builder.build_rows(columns, views, found)
            features[start:end] = apply_transform(transform, self.transform.path, rows, len(self.features))
        arrays = [batch.column(name) for name in _COPIED]
        arrays += [_nan_to_null(features[:, place]) for place in range(len(self.features))]
        arrays += [batch.column(name) for name in self.labels]
        return pa.RecordBatch.from_arrays(arrays, names=[*_COPIED, *self.features, *self.labels])

    def _check(self, batch: pa.RecordBatch, starts: np.ndarray) -> None:
        """Refuse invalid requests: several values of one field, a position twice, too many candidates."""
        if batch.column(REQUEST_ID).null_count:
            raise ValueError(f"{REFUSED} The examples of {self.name!r} have a request without {REQUEST_ID!r}.")
        for name, remedy in _EVERY_ROW_HAS.items():
            lacking = np.asarray(batch.column(name).is_null())
            if lacking.any():
                self._refuse(batch, lacking, f"has a row without {name!r}", remedy)
        inside = np.ones(batch.num_rows, np.bool_)
        inside[starts] = False
        for name in self.constant:
            changed = inside & _differs_from_previous(batch.column(name))
            if changed.any():
                self._refuse(batch, changed, f"has several values of {name!r}", "Return one value for each request.")
        places = _field_values(batch.column(POSITION)).astype(np.int64)
        twice = inside & (np.diff(places, prepend=places[:1] - 1) == 0)
        if twice.any():
            what = "has several rows" if self.most == 1 else "has two candidates in one place"
            self._refuse(batch, twice, what, "Number the candidates of a request from 0.")
        sizes = np.diff(np.append(starts, batch.num_rows))
        if sizes.max(initial=0) > self.most:
            large = np.zeros(batch.num_rows, np.bool_)
            large[starts[sizes > self.most]] = True
            remedy = f"At most {self.most} are asked to be ranked: return fewer, or raise `Candidates.most`."
            self._refuse(batch, large, f"has {int(sizes.max())} candidates", remedy)

    def _refuse(self, batch: pa.RecordBatch, rows: np.ndarray, what: str, remedy: str) -> None:
        request = batch.column(REQUEST_ID)[int(rows.argmax())].as_py()
        raise ValueError(f"{REFUSED} The request {request!r} of the examples of {self.name!r} {what}. {remedy}")


def _fingerprint_of(transform: Callable[..., Any]) -> str:
    return fingerprint(transform=transform)


def whole_requests(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Split the rows of a partition into batches of whole requests."""
    rest: pa.RecordBatch | None = None
    for batch in batches:
        if not batch.num_rows:
            continue
        together = batch if rest is None else _one_batch([rest, batch])
        last = int(request_starts(together.column(REQUEST_ID))[-1])
        if last:
            yield together.slice(0, last)
        rest = together.slice(last)
    if rest is not None:
        yield rest


def request_starts(ids: pa.Array) -> np.ndarray:
    """The first row of each run of equal ids, int64 [requests]."""
    return np.flatnonzero(np.append(True, _differs_from_previous(ids)[1:])[: len(ids)])


def _one_batch(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _differs_from_previous(column: pa.Array) -> np.ndarray:
    """Mask of the values that differ from the previous one, bool [n]; nulls are equal, and the first is false."""
    codes = column.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    return np.diff(codes, prepend=codes[:1]) != 0


def _field_values(column: pa.Array) -> Any:
    """Values of a field: an array of its numpy type, or a list if they are texts or include null."""
    if column.null_count or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.to_pylist()
    return column.to_numpy(zero_copy_only=False)


def _feature_matrix(column: pa.Array, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of a look-up, float32 [n, width], NaN for a missing row; and the mask of the rows found, bool [n]."""
    found = np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
    matrix = np.full((len(column), width), np.nan, np.float32)
    matrix[found] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return matrix, found


def _nan_to_null(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float32(), mask=np.isnan(values))
