"""The packages that a model was trained with against those installed here: an error or a recorded warning."""

from pathlib import Path

from forecache.errors import InputError

# The package whose version decides what an engine computes.
_INFERENCE_PACKAGES = {
    "onnx": ("onnxruntime",),
    "lightgbm": ("lightgbm",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "sklearn": ("scikit-learn", "skops"),
    "torch": ("torch",),
    "pyfunc": ("scikit-learn", "lightgbm", "xgboost", "torch", "catboost"),
}


def compare_environment(model_path: Path, engine: str) -> tuple[str, ...]:
    """Compare `requirements.txt` of a model with the installed packages.

    Returns:
        A sentence for each package that is missing or has another version.

    Raises:
        InputError: The inference package of the engine is missing or differs in its major version.
    """
    from importlib.metadata import PackageNotFoundError, version

    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import Version

    file = model_path / "requirements.txt"
    if not file.is_file():
        return ()
    warnings: list[str] = []
    for line in file.read_text().splitlines():
        text = line.split(" #")[0].strip()
        if not text or text.startswith(("-", "#")):
            continue
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            warnings.append(f"the model's requirement {text!r} cannot be compared")
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        major = wanted.name.lower() in _INFERENCE_PACKAGES[engine]
        try:
            installed = version(wanted.name)
        except PackageNotFoundError:
            if major:
                raise InputError(
                    f"The model needs {text}, and {wanted.name} is not installed.",
                    remedy=f"Install it here and on the executors: `pip install {text!r}`.",
                ) from None
            warnings.append(f"the model was logged with {text}; {wanted.name} is not installed")
            continue
        if wanted.specifier.contains(Version(installed).public, prereleases=True):
            continue
        pinned = [Version(clause.version.removesuffix(".*")) for clause in wanted.specifier if clause.operator == "=="]
        if major and pinned and pinned[0].major != Version(installed).major:
            raise InputError(
                f"The model needs {text}, and version {installed} is installed: another major version.",
                remedy="Install the model's version, or train and log the model again with this one.",
            )
        warnings.append(f"the model was logged with {text}; {installed} is installed")
    return tuple(warnings)
