"""The parts of `make bench-realtime`."""
