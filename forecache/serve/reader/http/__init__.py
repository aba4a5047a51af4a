"""The HTTP interface: paths, limits, problem details, formats."""
