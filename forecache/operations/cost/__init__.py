"""What running everything costs a day: stages, training, storage and replicas, from what was measured."""
