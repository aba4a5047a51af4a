"""OpenLineage events of the stages' records: the job, and the versions of the datasets that it read and wrote."""
