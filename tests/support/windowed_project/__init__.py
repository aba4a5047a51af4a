"""A project that needs neither Java nor pyspark nor torch: declared windows, SQL, and a LightGBM model."""
