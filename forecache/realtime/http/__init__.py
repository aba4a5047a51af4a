"""The protocols in which a model is asked over HTTP."""
