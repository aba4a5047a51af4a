"""What other modules share."""

from staleness_project.shared.labels import Labeller
from staleness_project.shared.rounding import *  # noqa: F403

__all__ = ["Labeller", "rounded"]  # noqa: F405
