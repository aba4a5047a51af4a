"""The columns of a feature table in their declared types, from the frame that a feature function returned."""

import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forecache.base.errors import InputError
from forecache.declare import Feature, FeatureView
from forecache.kit.delta.engine_errors import REFUSED
from forecache.lake.contracts import function_name, require_columns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_WHOLE = ("tinyint", "smallint", "int", "bigint", "boolean")
_TAKEN = {
    "number": (*_WHOLE, "float", "double"),
    "integer": _WHOLE,
    "category": (*_WHOLE, "string", "date"),
    "text": ("string",),
    "vector": tuple(f"array<{kind}>" for kind in (*_WHOLE[:-1], "float", "double")),
}
_RULES = {
    "number": (
        "features are numbers",
        "Return a number from {0}: cast it, count it or encode it; or declare its type, such as 'category'.",
    ),
    "integer": ("it is declared as an integer", "Return a whole number from {0}, or declare a number."),
    "category": ("it is declared as a category", "Return a text, a whole number, a date or a boolean from {0}."),
    "text": ("it is declared as a text", "Return a string from {0}."),
    "vector": ("it is declared as a vector", "Return an array of numbers from {0}."),
}


def typed_columns(computed: "DataFrame", view: FeatureView) -> "list[Column]":
    """The declared features of a computed frame as Spark columns in their stored types; InputError if one is wrong."""
    function = view.features and view.features.compute
    require_columns(computed, view, view.feature_names, function, "feature")
    types = dict(computed.dtypes)
    for feature in view.feature_columns:
        kind = types[feature.name]
        if kind not in _TAKEN[feature.type] and not (feature.type == "number" and kind.startswith("decimal")):
            what, remedy = _RULES[feature.type]
            raise InputError(
                f"The feature {feature.name!r} of {view.name!r} is a {kind}; {what}.",
                remedy=remedy.format(function_name(function)),
            )
    return [_stored_column(feature, view.name) for feature in view.feature_columns]


def _stored_column(feature: Feature, owner: str) -> "Column":
    """The column of a feature in its stored type."""
    from pyspark.sql import functions as F

    column = F.col(feature.name)
    if feature.type == "category":
        return F.nullif(column.cast("string"), F.lit("")).alias(feature.name)
    if feature.type == "text":
        return _embed_column(feature, column, owner).alias(feature.name)
    if feature.type == "vector":
        wrong = F.concat(
            F.lit(f"{REFUSED} The vector {feature.name!r} of {owner!r} has a row of "),
            F.size(column).cast("string"),
            F.lit(f" numbers, and is declared with size={feature.size}."),
        )
        fits = column.isNull() | (F.size(column) == feature.size)
        column = F.when(fits, column).otherwise(F.raise_error(wrong))
    return column.cast(feature.spark_type).alias(feature.name)


def _embed_column(feature: Feature, column: "Column", owner: str) -> "Column":
    from pyspark.sql.pandas.functions import arrow_udf

    embed, size = feature.embed or hashed_words(feature.size or 1), feature.size or 1
    about = f"{REFUSED} The function {function_name(embed)} of the text {feature.name!r} of {owner!r}"

    # Spark infers the kind of UDF from the type hints.
    def vectors(texts: pa.Array) -> pa.Array:
        import numpy as np

        given = texts.drop_null().to_pylist()
        found = np.asarray(embed(given) if given else np.empty((0, size)), np.float32)
        if found.shape != (len(given), size):
            raise ValueError(f"{about} returned numbers of shape {found.shape} for {len(given)} texts of size {size}.")
        lengths = np.where(np.asarray(texts.is_valid()), size, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, pa.array(found.reshape(-1)), mask=texts.is_null())

    return arrow_udf(vectors, "array<float>")(column)  # type: ignore[call-overload]


def hashed_words(size: int) -> Any:
    """Return a function from texts to word counts by hash (lower case, XXH64 modulo `size`), float32 [n, size]."""

    def count_hashes(texts: list[str]) -> Any:
        import numpy as np
        import xxhash

        counts = np.zeros((len(texts), size), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                counts[row, xxhash.xxh64_intdigest(word.encode()) % size] += 1
        return counts

    return count_hashes
