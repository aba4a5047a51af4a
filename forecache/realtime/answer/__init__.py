"""From a parsed request to its answer: the model in time, or a fallback."""
