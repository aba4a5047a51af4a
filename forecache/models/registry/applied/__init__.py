"""Models that score as declared: choose the version, check its floors, and plan how it is run."""
