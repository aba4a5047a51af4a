"""Monitoring: what moved since the champion was trained, how well it does, and whether that asks for a new training.

Features are held against the champion's training split, outputs against its scores on the test split, and, once a
night's labels are known, the gate's metric against the test split's. The figures are rows of the table `monitoring`.
"""
