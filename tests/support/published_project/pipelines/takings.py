"""What shops take, by published views."""

import dataclasses
from datetime import timedelta

import joined_sample

from forecache.declare import Drift, FeatureView, Publish, SqlModel, Window

RULES = Publish(max_psi=None, max_null_share=1.0)
# Its as-of dates begin a day later, so that its table is not in the nightly job: the step of the join builds it.
LATER = dataclasses.replace(joined_sample.FLOWS, start=joined_sample.START + timedelta(days=1))
shop = dataclasses.replace(joined_sample.SHOP, publish=RULES)
region = dataclasses.replace(joined_sample.REGION, sources=(LATER,), publish=RULES)
takings = dataclasses.replace(
    joined_sample.WITH_REGION,
    features=(shop, region),
    model=SqlModel("coalesce(amount_2d, 0)"),
    drift=Drift(report_rows=0),
    publish=RULES,
)
visitors = FeatureView(
    "visitors", ("region",), (LATER,), windows=(Window("people_2d", "sum", 2, "people"),), publish=RULES
)
