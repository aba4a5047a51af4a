"""Resolve the Delta jars for Spark once into a folder, so that every later session starts from local files.

Usage: python scripts/resolve_jars.py FOLDER
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pyspark

COORDINATES = ("io.delta:delta-spark_4.1_2.13:4.4.0", "io.delta:delta-storage:4.4.0")


def main(folder: Path) -> int:
    wanted = [f"{name}-{version}.jar" for _, name, version in (item.split(":") for item in COORDINATES)]
    if all((folder / jar).is_file() for jar in wanted):
        return 0
    ivy = folder / ".ivy"
    folder.mkdir(parents=True, exist_ok=True)
    program.write_text("")
    command = [*command[:5], "--master", "local[1]", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for jar in wanted:
        found = next(ivy.rglob(f"*{jar}"), None)
        if found is None:
            print(f"The jar {jar} could not be resolved:\n{done.stderr[-2000:]}", file=sys.stderr)
            print("Check the network, or put the jar into the folder by hand:", folder, file=sys.stderr)
            return 1
        shutil.copy2(found, folder / jar)
    shutil.rmtree(ivy)
    program.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
