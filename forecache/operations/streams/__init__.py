"""Keep streams running."""
