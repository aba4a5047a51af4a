"""Where alerts go, a module a kind of sink."""
