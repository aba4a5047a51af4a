"""Formats of landing files: each as rows of text, in bounded memory and whatever the bytes."""
