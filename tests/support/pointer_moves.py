"""Moves of a store's pointer in a process of its own, which dies as soon as so many files are in their place."""

import os
import signal
from pathlib import Path
from typing import Any

from store_tables import churn

from forecache.base.settings import load_settings
from forecache.serve.store import open_store, publish

MOVES = ("publish", "rollback", "pin", "unpin")


def move_until(home: Path, move: str, writes: int) -> None:
    """Move the pointer of `churn`, and die after so many files were replaced."""
    settings = load_settings(home=home)
    left, replace = writes, os.replace

    def replaced(*places: Any, **options: Any) -> None:
        nonlocal left
        replace(*places, **options)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replaced
    store = open_store(settings, "churn")
    if move == "publish":
        publish(settings, churn(), full=True)
    elif move == "rollback":
        store.rollback()
    elif move == "pin":
        store.pin(1)
    else:
        store.unpin()
