"""Streams: Kafka messages become rows of a Delta table and of live layers, each exactly once."""
