"""A figure of a reader's metrics page."""

import urllib.request


def metric(port: int, name: str, model: str) -> float:
    """The sum of a metric of a model over its other labels; 0 where there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = f'model="{model}"'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{") and wanted in line)
