"""What a pipeline, a source or a table can be named: the name is part of paths, URLs and table names."""

import re

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
