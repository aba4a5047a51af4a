"""Sources as the stages read them: point-in-time rows, the state that an as-of date depends on, and deliveries."""
