"""The engine `arrow`: one process consumes, judges, answers and commits."""
