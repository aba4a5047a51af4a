"""Feature tables, and the features of any table of keys and times."""
