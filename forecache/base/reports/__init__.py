"""HTML pages for people: one style, one file each, with nothing to load from elsewhere."""
