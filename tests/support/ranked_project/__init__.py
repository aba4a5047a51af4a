"""A project of the tests whose pipelines rank the candidates of requests."""
