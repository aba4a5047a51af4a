"""Parity: computes logged answers again, offline, at the versions that they name, and compares every bit."""
