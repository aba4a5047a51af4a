"""Code of a release that fails on demand."""
