"""Functions and expressions of a declaration as kernels: what a worker gets, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from applied_sample import NAMES, applied
from rules_project.pipelines.rules import rules

from forecache.errors import InputError
from forecache.inference.declared.function import pack
from forecache.inference.declared.plans import plan_declared
from forecache.inference.kernel import load_kernel
from forecache.inference.runtimes.registry import LOADERS
from forecache.pipeline import FunctionModel, SqlModel
from forecache.registry.applied.plan import plan_model


def kernel_of(model: Any) -> Any:
    plan = plan_model(None, applied(model), None)  # type: ignore[arg-type]  # neither is looked at
    return load_kernel(plan.spec, lambda: plan.payload, str), plan


def batch(rows: int) -> list[pa.Array]:
    values = np.random.default_rng(1).standard_normal((4, rows)).astype(np.float32)
    return [pa.array(column, mask=np.arange(rows) % 7 == 3) for column in values]


@pytest.mark.parametrize("model", [FunctionModel(rules), SqlModel("ln(abs(f1) + 1) * exp(f2) / (f0 * f3 - 1)")])
def test_a_row_has_the_same_bits_wherever_it_stands(model: Any) -> None:
    kernel, _ = kernel_of(model)
    arrays = batch(5000)
    (whole,) = kernel.run(arrays)
    assert np.isnan(whole).any() or isinstance(model, FunctionModel)
    for first, rows in ((0, 1), (17, 2), (1023, 3), (1024, 1500), (4999, 1)):
        (part,) = kernel.run([array.slice(first, rows) for array in arrays])
        assert part.tobytes() == whole[first : first + rows].tobytes()


def test_a_function_that_is_not_there_is_named_with_the_remedy() -> None:
    _, plan = kernel_of(FunctionModel(rules))
    for path in ("no_such_project.rules:rules", "rules_project.pipelines.rules:gone"):
        with pytest.raises(InputError, match=f"{path} cannot be imported where it is to score.*Install the project"):
            LOADERS["function"](plan.spec, lambda path=path: pack(path, "0"), str)


def test_a_worker_finds_the_project_where_the_driver_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far_project").mkdir()
    (tmp_path / "far_project" / "__init__.py").write_text("")
    (tmp_path / "far_project" / "rules.py").write_text("def half(features):\n    return features['f0'] / 2\n")
    payload = json.dumps({"path": "far_project.rules:half", "code": "0", "root": str(tmp_path)}).encode()
    _, plan = kernel_of(FunctionModel(rules))
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(InputError, match="is other code where it is to score"):  # found, and of another fingerprint
        LOADERS["function"](plan.spec, lambda: payload, str)


def test_another_order_of_features_or_another_code_is_another_kernel() -> None:
    checksums = {
        plan_declared(
            FunctionModel(rules), code=code, inputs=inputs, outputs=applied(SqlModel("f0")).output_specs
        ).spec.checksum
        for code in ("one", "two")
        for inputs in (NAMES, NAMES[::-1])
    }
    assert len(checksums) == 4
