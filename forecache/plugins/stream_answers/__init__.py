"""Answers of models in streams: each event is answered as it comes, and the answers are sent to a topic."""
