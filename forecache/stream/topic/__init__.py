"""The answers of a stream in a Kafka topic, each exactly once."""
