"""An exported torch program is loaded only where loading it runs no code of the file."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forecache.base.errors import CheckError
from forecache.models.inference.runtimes.torch import load_exported

pytestmark = pytest.mark.slow
SAMPLE, PROGRAM = "data/sample_inputs/model.pt", "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


class Malicious:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def archive() -> bytes:
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    buffer, rows = io.BytesIO(), torch.export.Dim("rows", min=1)
    program = torch.export.export(network, (torch.zeros(4, 4),), dynamic_shapes=({0: rows},))
    torch.export.save(program, buffer)
    return buffer.getvalue()


def changed(archive: bytes, entry: str, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with one entry's content changed, or the entry added where there is none."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in dict.fromkeys([*old.namelist(), f"{root}/{entry}"]):
            content = old.read(name) if name in old.namelist() else b""
            new.writestr(name, change(content) if name == f"{root}/{entry}" else content)
    return buffer.getvalue()


def pickled_tensor(trap: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Malicious(trap), buffer)
    return buffer.getvalue()


def program_with(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **fields}).encode()


def test_a_program_of_tensors_and_torchs_operators_is_loaded(archive: bytes) -> None:
    module = load_exported(archive)
    assert module(torch.zeros(7, 4)).shape == (7, 1)


def test_torch_itself_runs_the_code_of_such_files(archive: bytes, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = changed(archive, SAMPLE, lambda _: pickled_tensor(trap))
    with pytest.raises(Exception):  # noqa: B017  (what it then makes of the sample inputs does not matter)
        torch.export.load(io.BytesIO(evil))
    assert trap.exists(), "torch.export.load has become safe: this module may be needless"


def test_code_in_an_archive_is_refused_before_it_runs(archive: bytes, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    command = f"__import__('os').mkdir({str(trap)!r})"

    def as_pickle(content: bytes) -> bytes:
        config = json.loads(content)
        next(iter(config["config"].values()))["use_pickle"] = True
        return json.dumps(config).encode()

    evil = {
        "has sample inputs that are no tensors": changed(archive, SAMPLE, lambda _: pickled_tensor(trap)),
        "keeps '0.weight' as a pickle": changed(
            changed(archive, WEIGHTS, as_pickle), "data/weights/weight_0", lambda _: pickled_tensor(trap)
        ),
        "which is neither a tensor nor the program": changed(
            archive, "data/constants/opaque_obj_0", lambda _: pickle.dumps(Malicious(trap))
        ),
        "has the size": changed(
            archive,
            PROGRAM,
            lambda content: content.replace(b"Symbol('s", json.dumps(command)[1:-1].encode() + b" + Symbol('s"),
        ),
        "has the guard": changed(archive, PROGRAM, program_with(guards_code=[command])),
        "calls 'torch.ops.aten.from_file.default'": changed(
            archive,
            PROGRAM,
            lambda content: content.replace(b"torch.ops.aten.relu.default", b"torch.ops.aten.from_file.default"),
        ),
        "cannot be read": b"PK no archive",
    }
    for words, payload in evil.items():
        with pytest.raises(CheckError, match=words.replace("(", r"\(")):
            load_exported(payload)
        assert not trap.exists(), words
