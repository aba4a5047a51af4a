"""A release's modules import one another, whatever form the import has, and never the project that is installed."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from forecache.base.errors import InputError
from forecache.realtime.release.release_code import ReleaseCode

MAIN = """
from __future__ import annotations
import dataclasses
import logging
import numpy as np
import inner.deep.rates
import inner.deep.rates as by_name
import inner.deep.rates, inner.one
from inner import one, deep
from inner.deep import rates as aliased, only_here
from . import sibling
from .sibling import doubled
from ..other import VALUE as other_value
from inner.space import far

log = logging.getLogger(__name__)

@dataclasses.dataclass(frozen=True)
class Pair:
    left: float
    right: float | None = None

def everything():
    from inner import late
    import inner.late as again
    assert again is late
    pair = Pair(1.0)
    return [inner.deep.rates.RATE, by_name.RATE, one.ONE, deep.rates.RATE, aliased.RATE, only_here, sibling.SIBLING,
            doubled(2), other_value, far.FAR, late.LATE, pair.left, float(np.float32(3)), inner.one.ONE]

def broken():
    from inner import installed_only
    return installed_only

class Shape:
    def __call__(self):
        return type(self).__module__
"""
SOURCES = {
    "inner/__init__.py": "",
    "inner/one.py": "ONE = 1",
    "inner/late.py": "LATE = 9",
    "inner/other.py": "VALUE = 7",
    "inner/deep/__init__.py": "only_here = 5\nfrom inner.deep import rates",
    "inner/deep/rates.py": "from inner import deep\nRATE = 2",
    "inner/deep/main.py": MAIN,
    "inner/deep/sibling.py": "SIBLING = 6\ndef doubled(x):\n    return 2 * x",
    "inner/space/far.py": "FAR = 8",
}


def code_of(**changed: str) -> ReleaseCode:
    sources = {**SOURCES, **{path.replace("__", "/") + ".py": text for path, text in changed.items()}}
    return ReleaseCode({path: text.encode() for path, text in sources.items()}, Path("place"))


def test_every_form_of_import_finds_the_releases_own_modules() -> None:
    code = code_of()
    found = code.function("inner.deep.main:everything")()
    assert found == [2, 2, 1, 2, 2, 5, 6, 4, 7, 8, 9, 1.0, 3.0, 1]
    assert not {name for name in sys.modules if name.partition(".")[0] == "inner"}
    code.close()


def test_two_releases_have_other_values_of_one_name_at_the_same_time() -> None:
    one, two = code_of(), code_of(inner__one="ONE = 100", inner__late="LATE = 900")
    of_one, of_two = one.function("inner.deep.main:everything"), two.function("inner.deep.main:everything")
    assert (of_one()[2], of_two()[2], of_one()[10], of_two()[10]) == (1, 100, 9, 900)
    one.close()
    assert of_two()[10] == 900
    two.close()


def test_a_module_of_the_installed_project_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "inner"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "installed_only.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    code = code_of()
    broken = code.function("inner.deep.main:broken")
    with pytest.raises(ImportError, match="installed_only"):
        broken()
    code.close()


def test_a_module_that_cannot_be_imported_is_named_as_the_project_names_it() -> None:
    code = code_of(inner__bad="from inner.nowhere import x", inner__worse="import no_such_library")
    with pytest.raises(InputError, match=r"inner\.bad: ModuleNotFoundError: No module named 'inner\.nowhere'"):
        code.function("inner.bad:x")
    with pytest.raises(InputError, match="No module named 'no_such_library'.* install it there"):
        code.function("inner.worse:x")
    with pytest.raises(InputError, match="has no attribute 'gone'"):
        code.function("inner.one:gone")
    code.close()


def test_an_error_shows_the_line_of_the_packed_file() -> None:
    code = code_of(inner__fails="def fails():\n    raise ValueError('here')")
    with pytest.raises(ValueError, match="here") as caught:
        code.function("inner.fails:fails")()
    assert caught.traceback[-1].path == Path("place/inner/fails.py") or "inner/fails.py" in str(
        caught.traceback[-1].path
    )
    code.close()


def test_threads_that_import_at_once_get_one_module() -> None:
    code = code_of(inner__slow="import time\ntime.sleep(0.05)\nvalue = object()\ndef get():\n    return value")
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(code.function("inner.slow:get")())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    code.close()


def test_functions_go_on_after_their_release_was_closed() -> None:
    code = code_of()
    function = code.function("inner.deep.sibling:doubled")
    code.close()
    assert function(np.float32(2)) == 4
    assert not [name for name in sys.modules if name.startswith(code.prefix)]
    assert code not in [getattr(finder, "_code", None) for finder in sys.meta_path]


def test_a_class_with_a_name_of_its_own_module_works() -> None:
    code = code_of()
    assert code.function("inner.deep.main:Shape")()().endswith("inner.deep.main")
    code.close()
