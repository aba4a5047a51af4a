"""What is trained or applied, and what it returns."""
