"""Messages about what is published."""
