"""The declaration of a real-time model: request, look-ups, transform, fallbacks, log and rollout."""
