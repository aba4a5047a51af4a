"""What is wrong, as the lake, the registry and the stores have it: a module for each kind of alert."""
