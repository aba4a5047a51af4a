"""Load a release: verify every file, then load the model's kernel and import the transform."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from forecache.base.errors import CheckError, DamagedError, InputError, NotFoundError, UnavailableError
from forecache.base.plugins import find_hooks
from forecache.declare.realtime.request_rows import Rows, RowsBuilder, apply_transform
from forecache.kit.versioned.pointer import earlier_versions
from forecache.models.inference.environment import differing_versions
from forecache.models.inference.kernel import new_kernel
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.runtimes.function import FunctionKernel
from forecache.models.inference.runtimes.runtime import FUNCTION, Kernel
from forecache.realtime.release.folder import ReleaseFolder, ReleasePointer, read_files, read_release
from forecache.realtime.release.format import BINS_FILE, CODE_FOLDER, MODEL_FILE, WARMUP_FILE, Release
from forecache.realtime.release.release_code import ReleaseCode, hide_training_libraries

NATIVE = ("onnx", "lightgbm", "xgboost")
"""Runtimes whose models run in a bounded time, without Python code of their own."""
RUNTIMES = (*NATIVE, "sklearn", "skops", "torch", FUNCTION)
"""Runtimes that answer requests; none of them executes a pickle."""


@dataclass(frozen=True)
class OpenRelease:
    """A release that answers requests, of which this process may have read the description alone."""

    release: Release
    place: Path  # its folder
    reference: Any = field(default=None, kw_only=True)  # bins of its training data, as `drift` reads them

    def close(self) -> None:
        """Do nothing: no resources."""


@dataclass(frozen=True)
class LoadedRelease(OpenRelease):
    """A release in this process."""

    kernel: Kernel  # runs the model on a matrix of `model_columns`
    transform: Callable[[Rows], Any]  # to the release's features; `features_of` checks the result
    warmup: tuple[bytes, ...]  # recorded requests, in the reader's own JSON
    code: ReleaseCode = field(repr=False)

    @cached_property
    def builder(self) -> RowsBuilder:
        return RowsBuilder(self.release)

    @property
    def is_native(self) -> bool:
        """True if the model runs without Python code of its own, in a time that depends on its input alone."""
        return self.release.model.runtime in NATIVE

    def features_of(self, rows: Rows) -> np.ndarray:
        """Run the transform on a request: features, float32 [n, num_features], C-contiguous; raises `InputError`."""
        return apply_transform(self.transform, self.release.transform, rows, len(self.release.features))

    def scores_of(self, features: np.ndarray) -> np.ndarray:
        """Run the model on features of `features_of`: scores [n], in the type that the model computes in."""
        picked = features if self._order is None else features[:, self._order]
        return single_output(self.kernel.run_matrix(picked), len(features))

    def score(self, rows: Rows) -> np.ndarray:
        """Run transform and model: scores [n]; raises as `features_of` and `scores_of`."""
        return self.scores_of(self.features_of(rows))

    def close(self) -> None:
        self.code.close()

    @cached_property
    def _order(self) -> list[int] | None:
        """Positions of the model's inputs among the features; None if the inputs are the features in their order."""
        inputs, features = self.release.model.spec.inputs, self.release.features
        return None if not inputs or inputs == features else [features.index(name) for name in inputs]


def single_output(outputs: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Return the single output of a model as numbers [n]; raises `CheckError` if it is anything else."""
    values = np.asarray(outputs[0])
    if len(outputs) != 1 or values.size != rows or values.dtype.kind not in "fiub":
        raise CheckError(
            f"The model returned {len(outputs)} outputs, the first {values.dtype} of the shape {values.shape}, "
            f"for {rows} rows.",
            remedy="The model of a real-time declaration returns one number for each row.",
        )
    return values.reshape(rows)


def load_release(folder: ReleaseFolder, number: int) -> LoadedRelease:
    """Load a release into this process, beside whatever others are loaded.

    Raises:
        NotFoundError: There is no such release here.
        DamagedError: A file of it is damaged.
        InputError: A package that affects scores has another version here than where the release was made, or its
            code cannot be imported.
    """
    release, place = read_release(folder, number), folder.release(number)
    files = read_files(place, release.files)
    prefix = f"{CODE_FOLDER}/"
    code = {name.removeprefix(prefix): content for name, content in files.items() if name.startswith(prefix)}
    warmup = tuple(text.encode() for text in json.loads(files[WARMUP_FILE]))
    loaded = release_from_parts(release, place, model=files[MODEL_FILE], code=code, warmup=warmup)
    readers = find_hooks("drift_reference") if BINS_FILE in files else iter(())
    return replace(loaded, reference=next((read(files[BINS_FILE]) for read in readers), None))


def load_previous_release(folder: ReleaseFolder, pointer: ReleasePointer) -> LoadedRelease | None:
    """Load the newest release before the current one that was not rolled back and can be loaded; None for none."""
    for number in earlier_versions(folder, pointer, than=pointer.current):
        try:
            return load_release(folder, number)
        except (NotFoundError, DamagedError, InputError, UnavailableError):
            continue
    return None


def release_from_parts(
    release: Release, place: Path, *, model: bytes, code: Mapping[str, bytes], warmup: Sequence[bytes]
) -> LoadedRelease:
    """Make a loaded release of its files; raises as `load_release`."""
    modules = ReleaseCode(code, place / CODE_FOLDER)
    try:
        transform = modules.function(release.transform)
        kernel = _load_kernel(release, model, modules)
    except BaseException:
        modules.close()
        raise
    return LoadedRelease(release, place, kernel, transform, tuple(warmup), modules)


def _load_kernel(release: Release, model: bytes, code: ReleaseCode) -> Kernel:
    spec = release.model.spec
    if spec.runtime not in RUNTIMES:
        raise InputError(
            f"Release {release.number} of {release.name} has a model of the runtime {spec.runtime!r}.",
            remedy=f"Requests are answered by {', '.join(RUNTIMES)}.",
        )

    for name, made_with, here in differing_versions(spec.packages):
        raise InputError(
            f"Release {release.number} of {release.name} was made with {name} {made_with}, which decides about scores; "
            f"here it is {here}.",
            remedy=f"Install {name}=={made_with} here, or release it again with this one: `forecache release build "
            f"{release.name}`.",
        )

    def load_function(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
        path = json.loads(payload())["path"]
        return FunctionKernel(code.function(path), path, spec)

    load = load_function if spec.runtime == FUNCTION else None
    with hide_training_libraries() if spec.runtime == "lightgbm" else nullcontext():
        kernel = new_kernel(spec, lambda: model, tempfile.gettempdir, load=load)
    if spec.runtime == "lightgbm":
        # LightGBM allocates at the first call: make that call here, not while a request waits.
        kernel.run_matrix(np.zeros((1, spec.width or len(release.features)), np.float32))
    return kernel
