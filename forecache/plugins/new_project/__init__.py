"""A project to begin with: the template of a new one, and the demo that runs one from data to answers."""
