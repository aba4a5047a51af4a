"""The code of a torchrun worker. Only workers, tests and benchmarks import it, because it loads torch."""
