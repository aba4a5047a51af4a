"""Messages to the users of a published pipeline, each sent once, by SMTP."""
