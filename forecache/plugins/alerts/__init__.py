"""Alerts: each problem, and its end, is sent once to every receiver that the settings name."""
