"""The tiles of a stream's live views, kept in a file beside the stream's state so that a start need not make them."""
