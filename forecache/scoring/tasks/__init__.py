"""Tasks of a scoring job: rows of a feature file through the model into a Parquet file, on Spark or on Arrow."""
