"""Sources whose rows are in tables: existing Delta and Parquet tables, databases, and the tables of streams."""
