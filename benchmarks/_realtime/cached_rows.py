"""The rows of the section `cached`: a model with a cache of its answers beside itself without."""

from typing import Any

from _common.rows import Asked, Row, Value

from _realtime.best_rate import LIMITS


def rows_of(_: str, section: dict[str, Any]) -> list[Row]:
    none = Asked(0, at_least=False, of_ratio=False)
    rows = []
    for model, found in section["models"].items():
        sides = {side: found[side] for side in ("with", "without")}
        best = [float(side["rate"]) for side in sides.values()]
        ratio = best[0] / best[1] if best[1] else None
        rows.append(
            Row(f"{model}: requests per second at p99 under {LIMITS.p99_ms:g} ms and p99.9 under "
                f"{LIMITS.p999_ms:g} ms", Value.of(best[:1]), "/s", "without the cache", Value.of(best[1:]), ratio,
                key=model)
        )  # fmt: skip
        for quantile, title in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
            if all(side["runs"] for side in sides.values()):
                ours, theirs = (Value.of(run[quantile] for run in side["runs"]) for side in sides.values())
                rows.append(
                    Row(f"{model}: {title} at these rates", ours, "ms", "without the cache, at its own rate", theirs)
                )
        share = sides["with"]["hit_rate"]
        if share is not None and sides["with"]["runs"]:
            what = f"{section['distinct']:,} different requests by Zipf's law with the exponent {section['exponent']:g}"
            rows.append(Row(f"{model}: requests that the cache answered at that rate, of {what}",
                            Value.of([100 * share]), "%"))  # fmt: skip
        answers = found["compared"]
        rows.append(
            Row(f"{model}: of {answers['answers']:,} answers with the cache, {answers['cached']:,} of them from it, "
                "those that differ from the one without it", Value.of([answers["wrong"]]), asked=none)
        )  # fmt: skip
    return rows
