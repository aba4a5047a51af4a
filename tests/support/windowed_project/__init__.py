"""A project that needs neither Java nor pyspark nor torch: declared windows, and a LightGBM model."""
