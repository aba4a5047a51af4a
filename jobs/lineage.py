"""What Dagster knows of its runs that the lake does not record."""

from forecache.settings import Settings
from resources.instance import runner_instance


def job_names(settings: Settings) -> dict[str, str]:
    """By run id, the name of the job, of all runs of the home's instance."""
    with runner_instance(settings) as instance:
        return {run.run_id: run.job_name for run in instance.get_runs()}
