"""Kafka clients of a stream: the consumer, dead letters, and administration of topics."""
