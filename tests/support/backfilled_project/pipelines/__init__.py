"""No pipelines: `definitions` has what there is."""
