"""The processor that a figure was measured on."""

import platform
import re
from pathlib import Path


def processor_name() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.processor()
