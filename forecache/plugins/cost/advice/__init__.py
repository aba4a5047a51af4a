"""Advice on the declaration of a real-time model, from the measured costs and repetition of its requests."""
