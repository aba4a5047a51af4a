"""What the functions of a declaration depend on: declared values, and the source of the project that they reach."""

from forecache.pipeline.code.fingerprint import fingerprint

__all__ = ["fingerprint"]
