"""A project of the tests with a real-time model that ranks offers for a household, trained on past requests."""
