"""One file per pipeline; every module-level `Pipeline` here becomes assets, checks, tables, a store and a route."""
