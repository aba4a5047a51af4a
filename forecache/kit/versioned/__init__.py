"""A folder of immutable numbered versions with a pointer to the served one: stores of predictions, and releases."""
