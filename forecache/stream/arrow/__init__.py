"""The engine of one process: consume, judge, answer, commit."""
