"""Maintenance of the lake: small files are merged, and files that no needed version has are removed."""
