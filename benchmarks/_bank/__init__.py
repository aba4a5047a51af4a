"""A small bank for the proof on a cluster: pipelines, a real-time model and a stream over a month of payments."""
