"""HTTP: paths, limits, problems, formats."""
