"""What is said to a Kafka broker: the consumer with its offsets, and dead letters."""
