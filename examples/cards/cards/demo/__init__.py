"""What `make demo-stream` runs: landing history, sending a day faster than it happened, watching it, and a page."""
