"""One pipeline."""
