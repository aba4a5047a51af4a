"""What `forecache doctor` looks at: each check is a function that returns one finding."""
