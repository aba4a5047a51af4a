"""What Dagster loads of this project: all that its pipelines make.

Add assets and jobs of your own with `dg.Definitions.merge`. A project without this module is loaded just the same.
"""

import dagster as dg

from jobs.definitions import project_definitions


@dg.definitions
def defs() -> dg.Definitions:
    return project_definitions()
