"""Streams: events of a Kafka topic, the live features and answers that they make, and where these go."""
