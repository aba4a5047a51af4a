"""What a model learns from: features, the views that share them, and windows."""
