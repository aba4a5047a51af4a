"""Training: a pinned training set in, a checked and exported model out, through torchrun and safe to interrupt."""
