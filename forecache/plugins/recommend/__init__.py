"""Recommendations: from interactions of users with items to a list of items for every user."""
