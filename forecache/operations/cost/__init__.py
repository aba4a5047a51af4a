"""What running everything costs a day: stages, training, streams, storage and replicas, from what was measured."""
