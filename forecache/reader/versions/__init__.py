"""Which version is served, whether it is whole, and answers of it."""
