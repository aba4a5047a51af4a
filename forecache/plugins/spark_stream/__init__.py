"""The engine `spark`: Spark reads Kafka, executors judge the messages, the driver answers and commits them."""
