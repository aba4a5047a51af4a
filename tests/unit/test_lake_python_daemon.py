"""Spark's Python processes import the installed pyspark, and leave a path without one as it is."""

from pathlib import Path

from forecache.lake.spark.python_daemon import without_archives


def test_leaves_out_what_lies_inside_the_installed_pyspark(tmp_path: Path) -> None:
    package = tmp_path / "installed" / "pyspark"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "installed")
    archive = f"{tmp_path}/linked/pyspark/python/lib/pyspark.zip"
    path = [archive, "/mine", f"{package}/jars/spark-core.jar", str(tmp_path / "installed"), "/other/pyspark.zip"]
    assert without_archives(path) == ["/mine", str(tmp_path / "installed"), "/other/pyspark.zip"]


def test_leaves_a_path_without_an_installed_pyspark_as_it_is(tmp_path: Path) -> None:
    path = ["/spark/python/lib/pyspark.zip", str(tmp_path)]
    assert without_archives(path) == path
