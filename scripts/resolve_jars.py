"""Resolve the Delta jars for Spark once into a folder, checked by content, so that sessions start from local files.

Ivy comes with pyspark; its built-in settings name the public repository. Behind a mirror, give an Ivy settings file:

Usage: python scripts/resolve_jars.py FOLDER [--java JAVA] [--ivy-settings FILE]
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

JARS = {
    ("io.delta", "delta-spark_4.1_2.13", "4.4.0"): "75a9400986853c061f5109f012547de2545a5759e5e752e5ef633dabe16a4f10",
    ("io.delta", "delta-storage", "4.4.0"): "c46735481fa8e326b0957be02b4420cbcab4b325bb08009b7f2045a95133f1cc",
}


def jar_path(folder: Path, coordinates: tuple[str, str, str]) -> Path:
    _, name, version = coordinates
    return folder / f"{name}-{version}.jar"


def is_current(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def resolve(folder: Path, coordinates: tuple[str, str, str], *, java: str, ivy_settings: str) -> str:
    """Fetch one jar into `folder`; returns what Ivy said."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        return "pyspark, which carries Ivy, is not installed in this environment"
    classpath = str(Path(spec.origin).parent / "jars" / "*")
    with tempfile.TemporaryDirectory() as cache:
        command = [java, "-cp", classpath, "org.apache.ivy.Main", "-cache", cache, "-notransitive"]
        command += ["-settings", ivy_settings] if ivy_settings else []
        command += ["-dependency", *coordinates, "-confs", "default", "-warn"]
        command += ["-retrieve", f"{folder}/[artifact]-[revision].[ext]"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return done.stdout + done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--java", default="java")
    parser.add_argument("--ivy-settings", default="")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for coordinates, sha256 in JARS.items():
        path = jar_path(folder, coordinates)
        if is_current(path, sha256):
            continue
        path.unlink(missing_ok=True)
        said = resolve(folder, coordinates, java=arguments.java, ivy_settings=arguments.ivy_settings)
        if not is_current(path, sha256):
            reason = "has other content than expected" if path.exists() else "could not be resolved"
            path.unlink(missing_ok=True)
            print(f"The jar {':'.join(coordinates)} {reason}:\n{said[-2000:].strip()}", file=sys.stderr)
            print(f"Check the network, or copy {path.name} (sha256 {sha256}) into {folder} by hand.", file=sys.stderr)
            return 1
        print(f"  {path.name}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
