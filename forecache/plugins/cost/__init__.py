"""Cost of a project per day: stages, training, streams, storage and replicas, from measurements."""
