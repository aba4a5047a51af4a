"""Checks of declared values, alone and against each other."""
