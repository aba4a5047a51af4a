"""Show that Forecache works without a plug-in: `scripts/without_plugin.py [--tests] [NAME ...]`, default: each of them.

In a copy of the tree without the plug-in's folder, every other module is imported, `forecache --help` answers, and
mypy checks what is left. With `--tests`, the unit tests run that do not name the plug-in.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from forecache.base.plugins import PLUGINS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("forecache", "assets", "jobs", "resources")
_IMPORT_ALL = """
import importlib, pathlib, sys
for top in sys.argv[1:]:
    for file in sorted(pathlib.Path(top).rglob("*.py")):
        if "templates" not in file.parts and file.name != "__main__.py":
            importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
"""


def copy_without(plugin: str, target: Path) -> None:
    """Copy what git has of the tree, but the plug-in's folder and its public names."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in names:
        is_left_out = any(name.startswith(f"{folder}/plugins/{plugin}") for folder in PACKAGES)
        if not is_left_out and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    module = rf"forecache\.plugins\.{plugin}\b"
    own = rf'^ *from {module}.*\n|^ *"{module}[^:]*: ("""[^"]*"""|"[^"]*"),\n'
    for surface in (target / "forecache/__init__.py", target / "forecache/testing/__init__.py"):
        surface.write_text(re.sub(own, "", surface.read_text(), flags=re.MULTILINE))


def unit_tests_without(plugin: str, tree: Path) -> list[str]:
    """The files of unit tests that do not name the plug-in."""
    named = f"plugins.{plugin}"
    return [str(file) for file in sorted((tree / "tests/unit").glob("test_*.py")) if named not in file.read_text()]


def check(plugin: str, *, tests: bool) -> bool:
    """Check a copy of the tree without the plug-in; prints what fails."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_without(plugin, tree)
        commands = {
            "imports": [sys.executable, "-c", _IMPORT_ALL, *PACKAGES],
            "help": [sys.executable, "-c", "from forecache.cli.main import main; raise SystemExit(main(['--help']))"],
            "types": [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / f".mypy_cache/without-{plugin}")],
        }
        if tests:
            commands["tests"] = [sys.executable, "-m", "pytest", "-q", *unit_tests_without(plugin, tree)]
        environment = {**os.environ, "PYTHONPATH": folder}
        done = {
            name: subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
            for name, command in commands.items()
        }
    for name, process in done.items():
        if process.returncode:
            print(f"Without {plugin}, {name} fail:\n{process.stdout[-3000:]}{process.stderr[-3000:]}")
    return not any(process.returncode for process in done.values())


def main() -> int:
    """Check the plug-ins that are named; 1 if Forecache does not work without one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plugins", nargs="*", metavar="NAME", choices=[*PLUGINS, []])
    parser.add_argument("--tests", action="store_true", help="run unit tests, too")
    options = parser.parse_args()
    failed = 0
    for plugin in options.plugins or PLUGINS:
        works = check(plugin, tests=options.tests)
        failed += not works
        print(f"{plugin}: {'works without it' if works else 'FAILS without it'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
