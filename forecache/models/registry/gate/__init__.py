"""The gate, which decides whether a candidate becomes the champion."""
