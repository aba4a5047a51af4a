"""The runtimes that run a model: whether each can, the bytes that workers load, and how they load them."""
