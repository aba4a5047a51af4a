"""The main job's night at full size: history, ten million new events, twenty features, a gradient-boosted model."""
