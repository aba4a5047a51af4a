"""The project whose pipelines `make bench-training` trains."""
