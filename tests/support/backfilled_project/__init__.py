"""A project whose nights need no Spark, with definitions of its own for Dagster."""
