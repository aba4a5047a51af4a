"""The live drift of real-time models: readers count a sample of their answers, in the bins of the training data."""
