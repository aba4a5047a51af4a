"""Streams: events of a Kafka topic, the live features and answers computed from them, and their destinations."""
