"""The as-of dates of a training set, and the split of its rows: by time, or by entity."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from forecache.base.errors import InputError
from forecache.declare import AS_OF, Pipeline

if TYPE_CHECKING:
    from pyspark.sql import Column

SPLITS = ("train", "validation", "test")
_PLACES = 1 << 20


def as_of_dates(pipeline: Pipeline, night: date) -> dict[str, tuple[date, ...]]:
    """The as-of dates of each split for a training night, ascending; see `forecache.Training`.

    InputError if the pipeline's data does not reach back far enough for a single training date.
    """
    horizon = timedelta(days=pipeline.trained_label.horizon_days)
    step = timedelta(days=pipeline.training.every_days)
    by_entity = pipeline.training.split is not None
    dates = pipeline.schedule
    test = dates.last_as_of_until(night - horizon)
    validation = dates.last_as_of_until(test - horizon)
    train = [test if by_entity else dates.last_as_of_until(validation - horizon)]
    while len(train) < pipeline.training.num_as_of:
        train.append(dates.last_as_of_until(train[-1] - step))
    train = sorted(day for day in train if day >= pipeline.start)
    if not train:
        first = pipeline.start
        for _ in range(1 if by_entity else 3):
            first = dates.first_as_of_from(first + horizon)
        raise InputError(
            f"Pipeline {pipeline.name!r} cannot train on the night {night}: its data starts on {pipeline.start}.",
            remedy=f"{'One label horizon is' if by_entity else 'Three label horizons are'} needed: train on {first} or "
            "later.",
        )
    if by_entity:
        return dict.fromkeys(SPLITS, tuple(train))
    return {"train": tuple(train), "validation": (validation,), "test": (test,)}


def split_column(pipeline: Pipeline, dates: Mapping[str, Sequence[date]]) -> "Column":
    """The split of a row: by its date, or by a hash of its key."""
    from pyspark.sql import functions as F

    shares = pipeline.training.split
    if shares is None:
        return F.coalesce(*(F.when(F.col(AS_OF).isin(list(dates[name])), F.lit(name)) for name in SPLITS))
    place = F.pmod(F.xxhash64(*pipeline.key), F.lit(_PLACES)) / F.lit(_PLACES)
    held_out = F.when(place < shares.test, F.lit("test"))
    return held_out.when(place < shares.test + shares.validation, F.lit("validation")).otherwise(F.lit("train"))
