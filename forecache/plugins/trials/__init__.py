"""Trials: changed pipelines in an environment of their own, which reads all that has equal inputs from another one."""
