"""A project over flights from New York in 2013."""
