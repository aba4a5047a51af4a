"""The rows of the section `cached`: a model with a cache of its answers beside itself without."""

from typing import Any

from _common.rows import Asked, Row, Value

_FIGURES = (
    ("cpu_us", "the reader's processor time of a request", "us"),
    ("p50_ms", "p50", "ms"),
    ("p99_ms", "p99", "ms"),
    ("p999_ms", "p99.9", "ms"),
)


def rows_of(_: str, section: dict[str, Any]) -> list[Row]:
    none = Asked(0, at_least=False, of_ratio=False)
    rows = []
    for model, found in section["models"].items():
        for name, title, unit in _FIGURES:
            ours, theirs = (Value.of(run[name] for run in found[side]) for side in ("with", "without"))
            rows.append(
                Row(f"{model}: {title}, {section['rate']:,.0f} requests/s", ours, unit, "without the cache", theirs,
                    theirs.median / ours.median, key=f"{model} {name}")
            )  # fmt: skip
        shares = [100 * run["hit_rate"] for run in found["with"] if run["hit_rate"] is not None]
        if shares:
            what = f"{section['distinct']:,} different requests by Zipf's law with the exponent {section['exponent']:g}"
            rows.append(Row(f"{model}: requests that the cache answered, of {what}", Value.of(shares), "%"))
        failed = sum(run["failed"] for side in ("with", "without") for run in found[side])
        rows.append(Row(f"{model}: requests without an answer of status 200", Value.of([failed]), asked=none))
        answers = found["compared"]
        rows.append(
            Row(f"{model}: of {answers['answers']:,} answers with the cache, {answers['cached']:,} of them from it, "
                "those that differ from the one without it", Value.of([answers["wrong"]]), asked=none)
        )  # fmt: skip
    return rows
