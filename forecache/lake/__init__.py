"""The data lake: Delta tables, the Spark session, ingestion with quarantine, features, training sets."""
