"""The parts of `make bench-training`: pipelines, tables, one module a kind of measurement, and the report."""
