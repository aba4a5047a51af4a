"""The pages on names, from real runs of `forecache init`'s templates. As a script: FOLDER, the pictures of the docs."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from free_ports import free_port
from ui_support import browser_page, save_picture
from waiting import wait_for

_FORECACHE = Path(sys.executable).with_name("forecache")
_RUN_DATES = 10
_PAGES = {"batch": "returns", "recommend": "recommended", "realtime": "offer"}
"""The name of the page of each template."""


def run_template(template: str, folder: Path) -> dict[str, str]:
    """Make a project, run its demo and ten as-of dates, measure drift; returns the environment of its commands."""
    call("init", folder / "shop", "--template", template, env=dict(os.environ))
    paths = os.pathsep.join(filter(None, (str(folder / "shop"), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": paths, "FORECACHE_PROJECT": "shop", "FORECACHE_HOME": str(folder / "home")}
    name, last = _PAGES[template], datetime.now(timezone.utc).date() - timedelta(days=1)
    if template != "realtime":
        first = last - timedelta(days=_RUN_DATES - 1)
        call("demo", env=env)
        call("run", name, "--dates", f"{first}..{last}", env=env)
        for number in range(_RUN_DATES if template == "batch" else 0):
            call("monitor", name, "--date", first + timedelta(days=number), env=env)
    else:
        call("demo", env=env)
    return env


def call(*arguments: str | Path | date, env: dict[str, str]) -> None:
    subprocess.run([_FORECACHE, *map(str, arguments)], env=env, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def serving(env: dict[str, str]) -> Iterator[str]:
    """The server of a project."""
    import httpx

    port = free_port()
    server = subprocess.Popen([_FORECACHE, "serve"], env={**env, "FORECACHE_READER_PORT": str(port)})
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(is_ready, seconds=120)
        yield url
    finally:
        server.terminate()
        server.wait()


def take_pictures(folder: Path) -> None:
    for template, name in _PAGES.items():
        with tempfile.TemporaryDirectory() as home:
            env = run_template(template, Path(home))
            with serving(env) as url:
                with browser_page(width=1280, height=800) as page:
                    page.goto(f"{url}/status/{name}")
                    save_picture(page.screenshot(full_page=True), folder / f"page-{template}.png")
                if template == "realtime":
                    with browser_page(width=1280, height=1000) as page:
                        page.goto(f"{url}/docs")
                        save_picture(page.screenshot(), folder / "page-docs.png")


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
