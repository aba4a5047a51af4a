"""The pattern of names of pipelines, sources and tables, which are parts of paths, URLs and table names."""

import re

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
