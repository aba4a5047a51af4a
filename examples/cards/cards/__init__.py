"""Card payments as they happen: each is scored as it arrives, in a stream, and whenever somebody asks."""
