"""Batch scoring: the Spark UDF, the scoring run with its shards, incremental and shadow runs.

Workers import `forecache.models.inference.kernel` through this package and must not pay for the driver's modules.
"""

from typing import TYPE_CHECKING

from forecache.base.lazy_names import list_homes, load_lazily

if TYPE_CHECKING:
    from forecache.scoring.run import score as score
    from forecache.scoring.udf import scoring_udf as scoring_udf

_HOMES = list_homes({"forecache.scoring.run": "score", "forecache.scoring.udf": "scoring_udf"})
__all__ = sorted(_HOMES)
__getattr__ = load_lazily(__name__, _HOMES)
