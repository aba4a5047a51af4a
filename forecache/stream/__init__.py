"""From Kafka to tables and to the live layer: messages become rows, each exactly once."""
