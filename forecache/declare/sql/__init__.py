"""SQL of a declaration: checked when it loads, and written for DuckDB and for Spark with equal results."""
