"""The rollout of a release as readers know it: its state beside the pointer, and which requests go to the candidate."""
