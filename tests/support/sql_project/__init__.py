"""A project of the tests that is declared in SQL, without a function on frames."""
