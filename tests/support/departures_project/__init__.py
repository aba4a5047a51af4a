"""A project of somebody else: whether a departure will be late, asked for before it is made."""
