"""What a transform in tests reaches: a package of its own, which releases pack."""
