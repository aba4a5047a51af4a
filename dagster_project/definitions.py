"""The definitions that Dagster loads for this project: everything that its pipelines declare.

Add assets and jobs of your own with `dg.Definitions.merge`. Dagster also loads a project without this module.
"""

import dagster as dg

from jobs.definitions import project_definitions


@dg.definitions
def defs() -> dg.Definitions:
    return project_definitions()
