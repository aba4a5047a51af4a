"""`forecache diff`: what differs between two environments, dates or versions: rows, values, ranks, models, answers."""
