"""What moves a model and the store together; each operation happens whole or not at all."""
