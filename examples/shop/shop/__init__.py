"""Recommendations of a grocery, for 2,469 households."""
