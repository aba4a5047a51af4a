"""Expectations about tables, checked with Great Expectations, and the verdicts that later stages require."""
