"""A project with one pipeline that declares when to train again."""
