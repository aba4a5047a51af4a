"""The parts of `make bench-operate`."""
