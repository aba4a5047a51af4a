"""Execute `examples/notebook.py` in a new project after its demo, and write it with its outputs as a page.

`scripts/notebook.py PAGE`: a Markdown file. A cell begins with `# %%`, and a text with `# %% [markdown]`. The value of
a cell's last expression is its output, as HTML if it has some.
"""

import ast
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forecache.base.settings import load_settings
from forecache.plugins.new_project.demo_data import land_demo_data
from forecache.plugins.new_project.init_command import make_project
from forecache.runs import RunRequest, run_in_process

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.py"
_PACKAGE = "orders"
_MARK = re.compile(r"^# %%(?P<text> \[markdown\])?\n", re.MULTILINE)


def read_cells(source: str) -> Iterator[tuple[bool, str]]:
    """The cells of a notebook: whether one is text, and its Markdown or code."""
    marks = [*_MARK.finditer(source)]
    for mark, end in zip(marks, [*(each.start() for each in marks[1:]), len(source)], strict=True):
        content = source[mark.end() : end].strip("\n")
        is_text = mark["text"] is not None
        yield is_text, re.sub(r"^# ?", "", content, flags=re.MULTILINE) if is_text else content


def run_cell(code: str, names: dict[str, Any]) -> str:
    """Run a cell; returns what it printed and the value of its last expression, as Markdown."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)
    texts = [printed.getvalue().rstrip()] if printed.getvalue() else []
    if hasattr(value, "_repr_html_"):
        return "\n\n".join([*(f"```text\n{text}\n```" for text in texts), value._repr_html_()])
    texts += [] if value is None else [value if isinstance(value, str) else repr(value)]
    return "\n\n".join(f"```text\n{text}\n```" for text in texts)


def make_page() -> str:
    """Make the project, run it on its demo data, and execute the notebook there."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_project(Path(folder), _PACKAGE)
        sys.path.insert(0, folder)
        os.environ |= {"FORECACHE_HOME": str(Path(folder) / ".forecache"), "FORECACHE_PROJECT": _PACKAGE}
        settings = load_settings()
        land_demo_data(settings)
        run_in_process(settings, RunRequest(pipelines=["returns"], job="full"))
        names: dict[str, Any] = {"__name__": "__main__"}
        parts = ["<!-- Written by `make notebook` from examples/notebook.py. -->"]
        for is_text, content in read_cells(NOTEBOOK.read_text()):
            parts += [content] if is_text else [f"```python\n{content}\n```", run_cell(content, names)]
        return "\n\n".join(filter(None, parts)) + "\n"


if __name__ == "__main__":
    page = Path(sys.argv[1]).resolve()
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(make_page())
