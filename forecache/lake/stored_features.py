"""Features as their tables have them: rows as they come, types, and texts as vectors."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyarrow as pa

from forecache.base.errors import InputError
from forecache.declare import Feature
from forecache.kit.delta.errors import REFUSED
from forecache.lake.contracts import function_name

TextEmbedding = Callable[[pa.Array], pa.Array]


class RowBatches(NamedTuple):
    """Rows as they come, with their columns."""

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]


def stored_type(feature: Feature) -> pa.DataType:
    """The type that a feature has in a table."""
    stored = {"number": pa.float32(), "integer": pa.int64(), "category": pa.string()}
    return stored.get(feature.type, pa.list_(pa.float32()))


def embed_texts(feature: Feature, owner: str) -> TextEmbedding:
    """Return a function from texts to the vectors of a feature, float32; null stays null."""
    embed, size = feature.embed or hashed_words(feature.size or 1), feature.size or 1
    about = f"{REFUSED} The function {function_name(embed)} of the text {feature.name!r} of {owner!r}"

    def vectors(texts: pa.Array) -> pa.Array:
        import numpy as np

        given = texts.drop_null().to_pylist()
        found = np.asarray(embed(given) if given else np.empty((0, size)), np.float32)
        if found.shape != (len(given), size):
            raise ValueError(f"{about} returned numbers of shape {found.shape} for {len(given)} texts of size {size}.")
        lengths = np.where(np.asarray(texts.is_valid()), size, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, pa.array(found.reshape(-1)), mask=texts.is_null())

    return vectors


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


def store_column(feature: Feature, column: pa.Array, owner: str) -> pa.Array:
    """The values of a feature of a declaration in their type in a table; a text may be a text or its vector.

    InputError if they are of a type that cannot be cast to it.
    """
    if feature.type == "text" and not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        return embed_texts(feature, owner)(column.cast(pa.string()))
    try:
        return column.cast(stored_type(feature), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(
            f"The column {feature.name!r} is {column.type}, and the feature of {owner!r} is a {feature.type}.",
            remedy="Give it as the feature table has it.",
        ) from None
