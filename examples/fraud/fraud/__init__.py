"""One transaction, scored while the customer waits: made-up payments."""
