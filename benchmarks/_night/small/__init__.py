"""A project without Spark: churn of the demo's customers by windows and LightGBM."""
