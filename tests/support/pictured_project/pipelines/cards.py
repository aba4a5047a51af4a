"""Payments by card: a live view and its stream."""

from watched_streams import cards as declared

cards = declared()
