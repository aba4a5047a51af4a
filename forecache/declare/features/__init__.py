"""Features, feature views that pipelines share, and windows."""
