"""A project of the tests whose pipelines train estimators."""
