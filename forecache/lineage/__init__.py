"""OpenLineage events of what stages have recorded: which job made which version of which dataset from what."""
