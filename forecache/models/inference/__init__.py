"""Inference: load any registered model and run it on Arrow; the one kernel of the gate and of scoring."""
