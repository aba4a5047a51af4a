"""Reports of a worker: events, heartbeat, resource usage."""
