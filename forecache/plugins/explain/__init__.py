"""Explains logged answers of real-time models."""
