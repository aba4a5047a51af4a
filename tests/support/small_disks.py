"""A small file system in memory over a folder, which a process and those that it starts see and nobody else does."""

import os
import subprocess
from pathlib import Path

import pytest


def within_small_disk(folder: Path, size: str, *, filled: bool = False) -> list[str]:
    """What stands before a command that is to see the folder as such a file system; the test is skipped without one.

    Args:
        size: As tmpfs takes it, such as "64k".
        filled: Whether it is full from the beginning.
    """
    mount = f'mount -t tmpfs -o size={size} none "$0"'
    fill = '{ cat /dev/zero >"$0/fill" 2>/dev/null; exec "$@"; }' if filled else 'exec "$@"'
    # A mount namespace of its own: nothing is left mounted, and it needs no root where users may have them.
    namespace = ["unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    within = [*namespace, "sh", "-c", f"{mount} && {fill}", str(folder)]
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs in a namespace")
    return within
