"""What a worker reports: events, heartbeat, resource usage."""
