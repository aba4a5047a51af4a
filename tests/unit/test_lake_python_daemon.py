"""Spark's Python processes import the installed pyspark, and leave a path without one as it is."""

import subprocess
import sys
from pathlib import Path

from forecache.kit.spark.python_daemon import remove_archives


def test_leaves_out_what_lies_inside_the_installed_pyspark(tmp_path: Path) -> None:
    package = tmp_path / "installed" / "pyspark"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "installed")
    archive = f"{tmp_path}/linked/pyspark/python/lib/pyspark.zip"
    path = [archive, "/mine", f"{package}/jars/spark-core.jar", str(tmp_path / "installed"), "/other/pyspark.zip"]
    assert remove_archives(path) == ["/mine", str(tmp_path / "installed"), "/other/pyspark.zip"]


def test_leaves_a_path_without_an_installed_pyspark_as_it_is(tmp_path: Path) -> None:
    path = ["/spark/python/lib/pyspark.zip", str(tmp_path)]
    assert remove_archives(path) == path


def test_what_is_imported_before_workers_are_forked_is_there_and_frozen() -> None:
    """In a process of its own, whose garbage collection it changes. A name that is none would be passed over."""
    program = (
        "import gc, sys; from forecache.kit.spark import python_daemon as daemon; daemon.preload();"
        "print(sorted(set(daemon._PRELOADED) - set(sys.modules)), gc.get_freeze_count() > 0, 'pyspark' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["[]", "True", "False"]
