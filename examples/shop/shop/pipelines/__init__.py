"""The recommenders of the shop."""
