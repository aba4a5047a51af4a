"""Parity: logged answers computed again, offline, at the versions that they name; every bit is to be the same."""
