"""Features as they were known at any moment: of tables of keys and times, and of past requests to train from."""
