"""Mutual exclusion of training runs: a file lock on one machine, a lease in a bucket across machines."""
