"""`forecache doctor`: what Forecache needs on this machine, and whether it is there and whole."""
