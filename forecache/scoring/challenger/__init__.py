"""A challenger scored beside the champion."""
