"""Monitoring: drift of features and predictions, expected and realised performance, and the decision to train again.

Features are compared with the champion's training split, outputs with its scores on the test split, and, once the
labels of an as-of date are known, the gate's metric with the test split's. The figures are rows of the table
`monitoring`.
"""
