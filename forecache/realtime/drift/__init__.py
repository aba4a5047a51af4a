"""Live drift: what real-time models get and answer, counted in the bins of what they were trained on."""
