"""Models in processes of their own: asked over shared memory, abandoned at the deadline, replaced when they fail."""
