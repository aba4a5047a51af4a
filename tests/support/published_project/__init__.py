"""A project whose views are published: two that a pipeline joins, of other first days, and one of its own."""
