"""Training sets, their splits, and the rows of one."""
