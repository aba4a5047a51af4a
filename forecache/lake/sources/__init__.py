"""What the stages read of sources: their rows, point in time; the state that a night depends on; what was delivered."""
