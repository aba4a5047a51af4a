"""What both engines are: how a stream is run, what they say of themselves, and the threads beside them."""
