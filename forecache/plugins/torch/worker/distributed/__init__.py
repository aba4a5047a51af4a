"""The ranks of a training run: process group, parallel network, mixed precision."""
