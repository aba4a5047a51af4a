"""The parts of `make bench-scoring`."""
