"""Models that stand in the declaration: a function of the project, an SQL expression over the features."""
