"""A number that the rules reach."""

STEEPNESS = 1.5
