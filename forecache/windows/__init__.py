"""States of windows: what tiles hold, how they combine, and how last night's state is merged with today's tiles."""
