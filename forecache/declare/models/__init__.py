"""Models that are trained or applied, their outputs, and the gate."""
