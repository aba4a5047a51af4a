"""A project with one small pipeline over five days of orders, for tests of the orchestrator."""
