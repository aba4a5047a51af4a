"""Child processes, periodic threads, back-off, and the list of everything that wakes periodically."""
