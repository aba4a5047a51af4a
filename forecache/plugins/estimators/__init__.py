"""Training of scikit-learn-style estimators in a process of their own, with the records of any other training run."""
