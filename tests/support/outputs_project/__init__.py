"""A project of the tests whose pipelines have outputs of every kind."""
