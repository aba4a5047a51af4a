"""When a pipeline runs, and which days are its as-of dates."""
