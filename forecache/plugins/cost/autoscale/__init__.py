"""Replicas by demand, simulated: a day of requests against a fixed number of replicas and against a policy."""
