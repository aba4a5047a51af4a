"""What a worker reports: events, heartbeat, use of the machine."""
