"""Check that the fallbacks (rungs) of real-time models read numbers that the project publishes."""

from collections.abc import Iterable, Mapping, Sequence

from forecache.base.errors import SettingsError
from forecache.base.key_types import DECLARED
from forecache.declare.checks.conflicts import Declared, published_views
from forecache.declare.checks.keys import key_types
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.realtime.check_realtime import stored_values_of
from forecache.declare.realtime.ladder import DotProduct, LastNight, Rung, Stored
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.recommenders.recommender import Recommender
from forecache.declare.recommenders.second_tables import Vectors, second_tables_of

Numbers = Pipeline | FeatureView | Vectors
"""Declarations that may publish numbers."""


def fallback_errors(found: Mapping[str, Sequence[Declared]]) -> dict[str, SettingsError]:
    """Errors, by module, of real-time models with a fallback that reads something not published, or not numbers."""
    declared = [each for some in found.values() for each in some]
    published = _number_publishers(declared)
    broken: dict[str, SettingsError] = {}
    for module, some in found.items():
        for model in some:
            if not isinstance(model, Realtime):
                continue
            for rung in model.ladder:
                try:
                    _check_fallback(f"Realtime {model.name!r}", rung, published)
                    _check_types(model, stored_values_of((rung,)), published)
                except SettingsError as error:
                    broken.setdefault(module, error)
    return broken


def _number_publishers(declared: Sequence[Declared]) -> dict[str, Numbers]:
    recommenders = [each for each in declared if isinstance(each, Recommender)]
    tables = (table for each in recommenders for table in second_tables_of(each))
    every: Iterable[Numbers] = (
        *published_views(declared),
        *(each for each in declared if isinstance(each, Pipeline) and each.publish is not None),
        *(table for table in tables if isinstance(table, Vectors)),
    )
    return {each.name: each for each in every}


def _check_fallback(owner: str, rung: Rung, published: Mapping[str, Numbers]) -> None:
    if isinstance(rung, LastNight):
        count = _count_numbers(owner, rung.of, published)
        if count != 1:
            raise SettingsError(
                f"{owner} has a rung that reads {count} numbers of {rung.of.store!r} as one score.",
                remedy="Name one of them: Stored(field=...).",
            )
    if isinstance(rung, DotProduct):
        user, item = _count_numbers(owner, rung.user, published), _count_numbers(owner, rung.item, published)
        if user != item:
            raise SettingsError(
                f"{owner} multiplies {user} numbers of {rung.user.store!r} with {item} of {rung.item.store!r}.",
                remedy="Give two vectors of one size, such as those of a `Recommender(vectors=True)`.",
            )


def _check_types(model: Realtime, read: Iterable[Stored], published: Mapping[str, Numbers]) -> None:
    """Refuse fields of another type than the key that they look up: no row would ever be found."""
    fields = {field.name: field.type for field in model.all_fields}
    for stored in read:
        declared = published[stored.store]
        if isinstance(declared, Vectors):
            wanted = [declared.key_type]
        else:
            wanted = list(key_types(declared.key, declared.all_sources).values())
        for name, column, kind in zip(stored.key, declared.key, wanted, strict=True):
            if DECLARED.get(fields[name]) != DECLARED[kind]:
                raise SettingsError(
                    f"Realtime {model.name!r} has a rung that reads {stored.store!r} by {name!r}, which is a "
                    f"{fields[name]}, and the {column!r} of its key is a {kind}.",
                    remedy="Declare the field with the type of the key, or read by another field.",
                )


def _count_numbers(owner: str, stored: Stored, published: Mapping[str, Numbers]) -> int:
    """Count the numbers that a fallback reads from a store."""
    declared = published.get(stored.store)
    if declared is None:
        raise SettingsError(
            f"{owner} has a rung that reads the store {stored.store!r}, which nothing publishes numbers to.",
            remedy=f"Numbers are published to {', '.join(sorted(published)) or 'none'}.",
        )
    if len(stored.key) != len(declared.key):
        raise SettingsError(
            f"{owner} has a rung that reads {stored.store!r} by {', '.join(stored.key)}, and its key is "
            f"{', '.join(declared.key)}.",
            remedy="Name a field for each column of the key.",
        )
    sizes = {name: (declared.packed.sizes.get(name, 1) if declared.packed else 1) for name in declared.served_fields}
    if not stored.field:
        return sum(sizes.values())
    columns = {name: 1 for field, size in sizes.items() if size > 1 for name in (f"{field}_{i}" for i in range(size))}
    if stored.field not in {**columns, **sizes}:
        raise SettingsError(
            f"{owner} has a rung that reads {stored.field!r} of {stored.store!r}, which has no such field.",
            remedy=f"It has {', '.join(sizes)}.",
        )
    return {**columns, **sizes}[stored.field]
