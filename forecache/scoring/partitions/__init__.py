"""Partitions of the prediction table: from scored shards to one atomic commit."""
