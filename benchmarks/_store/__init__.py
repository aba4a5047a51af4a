"""The parts of `make bench-store`: data, servers, load, one module a section, and the report."""
