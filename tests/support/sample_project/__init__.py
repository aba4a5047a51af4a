"""A project with small pipelines for tests: no Spark, tables written through delta-rs."""
