"""What the project declares."""
