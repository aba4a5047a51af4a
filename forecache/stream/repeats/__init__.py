"""Which events a stream has received in the last days: their ids in memory, and in files beside the stream's state."""
