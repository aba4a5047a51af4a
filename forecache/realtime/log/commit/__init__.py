"""The committer: from the spool into the lake's table, each row exactly once."""
