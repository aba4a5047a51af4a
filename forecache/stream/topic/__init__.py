"""Sends the answers of a stream to a Kafka topic, each exactly once."""
