"""A project with one small pipeline whose whole main job runs in a minute: landing files to a published store."""
