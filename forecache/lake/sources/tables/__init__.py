"""Existing Delta and Parquet tables, read where they lie."""
