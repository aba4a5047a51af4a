"""Fingerprints of declarations: hashes of declared values and of the project's source that their functions use."""

from forecache.declare.code.fingerprint import fingerprint

__all__ = ["fingerprint"]
