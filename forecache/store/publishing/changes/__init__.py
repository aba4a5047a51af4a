"""Which rows differ between the published state of a partition and its present one."""
