"""Names of jobs by run, which Dagster records and the lake does not."""

from forecache.settings import Settings
from resources.instance import runner_instance


def job_names(settings: Settings) -> dict[str, str]:
    """Names of jobs by run id, of all runs of the installation's Dagster instance."""
    with runner_instance(settings) as instance:
        return {run.run_id: run.job_name for run in instance.get_runs()}
