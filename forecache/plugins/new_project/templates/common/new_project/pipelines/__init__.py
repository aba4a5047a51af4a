"""One module per pipeline; each module-level `Pipeline` becomes tables, assets, checks, a store and a route."""
