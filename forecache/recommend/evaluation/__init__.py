"""How good lists are: split, metrics, gate, page."""
