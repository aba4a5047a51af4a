"""Releases of real-time models: written whole, two loaded side by side, refused where a byte has changed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ranking_code.scales
from ranking_code import transforms
from release_support import FEATURES, a_request, make_release

from forecache.base.errors import DamagedError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare.realtime.log import Log
from forecache.declare.realtime.rows import Rows
from forecache.kit.versioned.pointer import read_pointer
from forecache.operations.prove_release import pack_code
from forecache.realtime.release.folder import open_releases, read_release, write_release
from forecache.realtime.release.load import LoadedRelease, load_release


def modules_of_releases() -> set[str]:
    """Names of the modules of releases that are loaded in this process."""
    return {name for name in sys.modules if name.startswith("_forecache_release_")}


def rows_of(loaded: LoadedRelease, *, products: int = 5) -> Rows:
    """Rows of a request with unknown keys among them."""
    generator = np.random.default_rng(products)
    names = [f"p{i}" for i in range(products)]
    prices = generator.normal(5, 1, products).tolist()
    columns = loaded.builder.build_columns({"household_id": 2**53 + 1}, {"product_id": names, "price": prices})
    known = np.arange(products) % 3 > 0
    popularity = np.where(known, generator.normal(size=products), np.nan).astype(np.float32)[:, None]
    household = np.array([[1.5, -0.0]], np.float32)
    return loaded.builder.build_rows(
        columns, {"household": household, "product": popularity}, {"household": np.array([True]), "product": known}
    )


@pytest.mark.parametrize("runtime", ["onnx", "lightgbm", "function"])
def test_a_release_is_loaded_as_it_was_written(settings: Settings, runtime: str) -> None:
    written = make_release(settings, runtime=runtime)
    folder = open_releases(settings, "ranking")
    assert read_pointer(folder).current == written.number == 1
    assert read_release(folder, 1) == written
    loaded = load_release(folder, 1)
    assert loaded.release == written
    assert loaded.warmup == (a_request(),)
    assert loaded.is_native == (runtime != "function")
    rows = rows_of(loaded)
    scores = loaded.score(rows)
    assert scores.shape == (5,)
    assert np.isfinite(scores).all() or runtime == "function"
    features = loaded.features_of(rows)
    assert features.dtype == np.float32
    assert features.flags.c_contiguous
    assert features.tobytes() == transforms.rank(rows).astype(np.float32).tobytes()
    loaded.close()


def test_what_was_released_later_is_current_and_both_run_side_by_side(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_releases(settings, "ranking")
    make_release(settings)
    before = modules_of_releases()
    first = load_release(folder, 1)
    make_release(settings, version=2)
    assert read_pointer(folder).current == 2
    second = load_release(folder, read_pointer(folder).current or 0)
    monkeypatch.setattr(ranking_code.scales, "HALF", 100.0)  # whatever the installed project does
    rows = rows_of(first)
    assert first.features_of(rows).tobytes() == second.features_of(rows).tobytes()
    assert not np.array_equal(first.scores_of(first.features_of(rows)), second.score(rows))
    first.close()
    assert second.score(rows).shape == (5,)
    assert modules_of_releases() > before
    second.close()
    assert modules_of_releases() == before


def test_two_releases_have_their_own_code(settings: Settings) -> None:
    folder = open_releases(settings, "ranking")
    make_release(settings)
    scales = folder.release(1) / "code" / "ranking_code" / "scales.py"
    assert "HALF = 0.5" in scales.read_text()
    changed = {**pack_code([transforms.rank]), "ranking_code/scales.py": scales.read_bytes().replace(b"0.5", b"2.0")}
    model = (folder.release(1) / "model.bin").read_bytes()
    write_release(folder, read_release(folder, 1), number=2, model=model, code=changed)
    one, two = load_release(folder, 1), load_release(folder, 2)
    rows = rows_of(one)
    assert (one.features_of(rows)[:, 2] == np.log1p(rows["price"] * 0.5).astype(np.float32)).all()
    assert (two.features_of(rows)[:, 2] == np.log1p(rows["price"] * 2.0).astype(np.float32)).all()
    assert (one.features_of(rows)[:, 2] == np.log1p(rows["price"] * 0.5).astype(np.float32)).all()
    one.close()
    two.close()


def test_no_file_of_a_release_may_change_by_a_byte(settings: Settings) -> None:
    make_release(settings)
    folder = open_releases(settings, "ranking")
    files = [path for path in folder.release(1).rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"release.json", "model.bin", "warmup.json", "transforms.py", "scales.py"}
    for path in files:
        content = path.read_bytes()
        for changed in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], content + b" "):
            if path.name == "release.json" and changed.strip() == content.strip():
                continue  # white space outside of the sealed object
            path.write_bytes(changed)
            with pytest.raises(DamagedError, match=path.name):
                load_release(folder, 1)
        path.unlink()
        with pytest.raises((DamagedError, NotFoundError)):
            load_release(folder, 1)
        path.write_bytes(content)
    load_release(folder, 1).close()


def test_a_release_that_is_not_there_is_named(settings: Settings) -> None:
    make_release(settings)
    with pytest.raises(NotFoundError, match="no release 7 of ranking. Those that are here: 1"):
        load_release(open_releases(settings, "ranking"), 7)


def test_a_release_that_was_made_with_another_version_of_its_runtime_is_refused(settings: Settings) -> None:
    made = make_release(settings)
    folder = open_releases(settings, "ranking")
    model = replace(made.model, spec=replace(made.model.spec, packages={"onnxruntime": "0.1"}))
    content = (folder.release(1) / "model.bin").read_bytes()
    write_release(folder, replace(made, model=model), number=2, model=content, code=pack_code([transforms.rank]))
    with pytest.raises(InputError, match=r"Release 2 of ranking was made with onnxruntime 0\.1, .* `forecache release"):
        load_release(folder, 2)


@pytest.mark.parametrize(
    ("top", "found"),
    [
        ("import importlib", "importlib.import_module('a' + 'b').rank"),
        ("from importlib import import_module as load", "load('a' + 'b').rank"),
        ("from sys import modules as loaded", "loaded['ab'].rank"),
        ("import pkgutil", "pkgutil.resolve_name('ab:rank')"),
        ("from runpy import run_module as run", "run('ab')['rank']"),
        ("from importlib.util import find_spec, module_from_spec as new", "new(find_spec('ab')).rank"),
    ],
)
def test_code_that_imports_by_a_made_up_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: str, found: str
) -> None:
    (tmp_path / "sly.py").write_text(f"{top}\n\ndef rank(rows):\n    return {found}(rows)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sly", raising=False)
    import sly  # type: ignore[import-not-found]

    with pytest.raises(InputError, match="imports by a name that it makes up"):
        pack_code([sly.rank])


def test_features_keep_their_names(settings: Settings) -> None:
    assert make_release(settings).features == FEATURES


def test_a_process_that_only_answers_loads_trees_without_pandas_and_scores_the_same(settings: Settings) -> None:
    make_release(settings, runtime="lightgbm")
    folder = open_releases(settings, "ranking")
    loaded = load_release(folder, 1)
    features = loaded.features_of(rows_of(loaded))
    expected = loaded.scores_of(features).tobytes().hex()
    loaded.close()
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from forecache.realtime.release.release_code import mark_inference_only\n"
        "from forecache.realtime.release.folder import ReleaseFolder\n"
        "from forecache.realtime.release.load import load_release\n"
        "mark_inference_only()\n"
        f"loaded = load_release(ReleaseFolder(Path({str(folder.root)!r})), 1)\n"
        "assert not {'pandas', 'sklearn'} & set(sys.modules)\n"
        f"features = np.frombuffer(bytes.fromhex({features.tobytes().hex()!r}), np.float32).reshape(5, 4)\n"
        "print(loaded.scores_of(features).tobytes().hex())\n"
        "import pandas\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_a_release_keeps_the_log_of_its_declaration(settings: Settings) -> None:
    log = Log(("household_id", "store_id"), sample=0.25, keep_days=7)
    written = make_release(settings, log=log)
    assert read_release(open_releases(settings, "ranking"), written.number).log == log
