"""The checks of `forecache doctor`: each is a function that returns one finding."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One check's outcome; `remedy` is empty if nothing has to be done."""

    check: str
    state: State
    found: str
    remedy: str = ""
