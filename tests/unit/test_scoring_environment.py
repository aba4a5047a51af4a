"""A model's packages against the installed ones: another major version of the runtime stops, the rest is told."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from forecache.base.errors import InputError
from forecache.models.inference.environment import compare_environment, deciding_versions, require_versions
from forecache.models.inference.known_runtimes import find_runtimes


def compare(folder: Path, *requirements: str, runtime: str = "onnx") -> tuple[str, ...]:
    (folder / "requirements.txt").write_text("\n".join(requirements))
    return compare_environment(folder, find_runtimes()[runtime].packages)


def test_equal_packages_say_nothing(tmp_path: Path) -> None:
    assert compare(tmp_path, f"onnxruntime=={version('onnxruntime')}", f"numpy=={version('numpy')}") == ()


def test_no_requirements_say_nothing(tmp_path: Path) -> None:
    assert compare_environment(tmp_path, ("onnxruntime",)) == ()


@pytest.mark.parametrize("asked", ["==0.5.0", ">=9", "~=9.1", "==0.5.*", "<=0.9"])
def test_another_major_version_of_the_runtime_is_an_error(tmp_path: Path, asked: str) -> None:
    with pytest.raises(InputError, match=rf"needs onnxruntime{re.escape(asked)}, and version .* is installed"):
        compare(tmp_path, f"onnxruntime{asked}")


def test_another_minor_version_of_the_runtime_is_a_warning(tmp_path: Path) -> None:
    warnings = compare(tmp_path, "onnxruntime==1.0.0")
    assert warnings == (f"the model was logged with onnxruntime==1.0.0; {version('onnxruntime')} is installed",)


def test_another_version_of_another_package_is_a_warning(tmp_path: Path) -> None:
    assert len(compare(tmp_path, "numpy==0.1")) == 1


def test_a_missing_runtime_is_an_error_and_a_missing_helper_a_warning(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="catboost is not installed"):
        compare(tmp_path, "catboost==1.2", runtime="pyfunc")
    assert "is not installed" in compare(tmp_path, "catboost==1.2", runtime="onnx")[0]


def test_a_package_that_provides_the_module_of_the_required_one_will_do(tmp_path: Path) -> None:
    found = version("xgboost-cpu")
    for runtime in ("xgboost", "pyfunc", "onnx"):
        assert compare(tmp_path, f"xgboost=={found}", f"mlflow-skinny=={version('mlflow')}", runtime=runtime) == ()
        assert compare(tmp_path, f"xgboost-gpu=={found}", runtime=runtime) == ()
    assert compare(tmp_path, "xgboost==3.0.0") == (f"the model was logged with xgboost==3.0.0; {found} is installed",)
    for runtime in ("xgboost", "pyfunc"):
        with pytest.raises(InputError, match=r"needs xgboost-cpu==1\.7, and version .* another major version"):
            compare(tmp_path, "xgboost-cpu==1.7", runtime=runtime)
        (tmp_path / "requirements.txt").write_text("XGBoost\n")
        assert deciding_versions(tmp_path, find_runtimes()[runtime]) == {"xgboost-cpu": found}
    require_versions({"xgboost": found})  # as a driver says that has the other package


def test_lines_that_are_no_requirement_and_foreign_markers_are_passed_over(tmp_path: Path) -> None:
    assert compare(tmp_path, "# a comment", "--index-url x", 'numpy==0.1; sys_platform == "win32"') == ()
    assert "cannot be compared" in compare(tmp_path, "git+https://example.com/x")[0]


def test_a_runtime_s_own_package_decides_and_of_plain_python_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\nLightGBM==4.0\n")
    assert deciding_versions(tmp_path, find_runtimes()["onnx"]) == {"onnxruntime": version("onnxruntime")}
    assert deciding_versions(tmp_path, find_runtimes()["pyfunc"]) == {"lightgbm": version("lightgbm")}
    assert deciding_versions(tmp_path / "none", find_runtimes()["pyfunc"]) == {}


def test_a_worker_needs_the_versions_that_the_driver_has() -> None:
    require_versions({"onnxruntime": version("onnxruntime")})
    with pytest.raises(InputError, match=r"nothing-such not installed, and the driver.* has 1\.0.*same image"):
        require_versions({"nothing-such": "1.0"})
