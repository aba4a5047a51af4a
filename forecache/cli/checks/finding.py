"""What a check found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One check's outcome; `remedy` is empty where nothing is to be done."""

    check: str
    state: State
    found: str
    remedy: str = ""
