"""Dagster assets and their checks: one file per stage of the lake, in the order data flows.

landing -> raw, quarantine -> features -> training_set -> candidate -> model -> predictions -> published, monitoring
"""

import warnings

import dagster as dg

# Partitioned checks and single-run backfills are marked preview and beta; the documentation says so, and a warning for
# every asset at every start does not help.
for _category in (dg.PreviewWarning, dg.BetaWarning):
    warnings.filterwarnings("ignore", category=_category)
