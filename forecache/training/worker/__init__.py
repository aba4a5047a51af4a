"""What runs inside a torchrun worker. Only workers (and tests and benchmarks) import it: it loads torch."""
