"""Streams with Spark: it reads Kafka, executors judge the messages, the driver answers and commits them."""
