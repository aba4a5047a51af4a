"""Where rows come from, and how time works in them."""
