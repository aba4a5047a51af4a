"""Its pipeline."""
