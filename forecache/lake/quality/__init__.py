"""Expectations about tables, their evaluation, and the verdicts that later stages require."""
