"""Code that releases of streams in tests carry."""
