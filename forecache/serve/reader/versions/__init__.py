"""The served versions: choice, verification, and answers."""
