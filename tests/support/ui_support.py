"""A browser on Dagster's UI. Run as a script it takes the pictures of the documentation: URL FOLDER."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

_SWITCHES = ("gpu", "background-networking", "component-update", "sync")
_FLAGS = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in _SWITCHES)]


def find_browser() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def browser_page(*, width: int = 1700, height: int = 900, **options: Any) -> Iterator["Page"]:
    """A page of a headless browser with a new profile; `options` of Playwright's `new_page`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=_FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def open_graph(page: "Page", base: str) -> None:
    """The asset graph with every group unfolded."""
    page.goto(f"{base}/asset-groups")
    page.locator("canvas, svg").first.wait_for()
    page.get_by_text("Materialize all").wait_for()
    page.wait_for_timeout(2000)
    page.keyboard.press("Alt+e")
    page.get_by_text("Hide navigation").click()
    page.wait_for_timeout(4000)


def open_asset(page: "Page", base: str, asset: str, view: str = "overview") -> None:
    page.goto(f"{base}/assets/{asset}?view={view}")
    page.wait_for_load_state("networkidle")


def save_picture(png: bytes, path: Path) -> None:
    """Save a picture with 256 colours, which pages of text do not need more of, at half the size."""
    from PIL import Image

    Image.open(BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def take_pictures(base: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    group = "locations/forecache/asset-groups/churn"
    for place, height, name in (("asset-groups", 680, "asset-graph"), (group, 720, "asset-group")):
        with browser_page(height=height) as page:
            page.goto(f"{base}/{place}")
            page.get_by_text("Materialize all").wait_for()
            page.wait_for_timeout(6000)
            save_picture(page.screenshot(), folder / f"{name}.png")
    with browser_page(height=1000) as page:
        open_asset(page, base, "model_churn", "checks")
        page.get_by_text("passes_gate").first.click()
        page.wait_for_timeout(3000)
        save_picture(page.screenshot(), folder / "asset-gate.png")
    with browser_page(width=1300, height=1000) as page:
        open_asset(page, base, "model_churn")
        page.get_by_text("[Show Markdown]").first.click()
        page.wait_for_timeout(3000)
        save_picture(page.screenshot(), folder / "asset-plots.png")


if __name__ == "__main__":
    take_pictures(sys.argv[1].rstrip("/"), Path(sys.argv[2]))
