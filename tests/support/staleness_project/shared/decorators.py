"""A decorator that hides what it wraps."""

from typing import Any


def logged(function: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return run
