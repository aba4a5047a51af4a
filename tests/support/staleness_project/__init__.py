"""A project whose functions reach code in many ways; tests edit a copy of it and ask what has become stale."""
