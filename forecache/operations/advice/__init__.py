"""Right-sizing from measured use: trainings, scoring, replicas, and batch against real time."""
