"""Runtimes, each of which packs the models that it can run and loads them in workers."""
