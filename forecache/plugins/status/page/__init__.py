"""The status as an HTML page that loads nothing."""
