"""What `make bench-plan` runs in processes of their own."""
