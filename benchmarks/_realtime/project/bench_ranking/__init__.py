"""The project that `make bench-realtime` measures."""
