"""Batch scoring: the Spark UDF, the scoring run with its shards, incremental and shadow runs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forecache.scoring.run import score
    from forecache.scoring.udf import scoring_udf

__all__ = ["score", "scoring_udf"]


def __getattr__(name: str) -> object:
    # Workers import `forecache.models.inference.kernel` through this package and must not pay for the driver's modules.
    if name == "scoring_udf":
        from forecache.scoring.udf import scoring_udf

        return scoring_udf
    if name == "score":
        from forecache.scoring.run import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
