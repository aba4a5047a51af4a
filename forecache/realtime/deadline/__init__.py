"""When a request arrived, until when it is answered, and what can be done until then."""
