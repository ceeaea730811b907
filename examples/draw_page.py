"""Take the pictures of the page of `tileseg view` that the documentation shows.

    python examples/draw_page.py docs/pictures

A slide is drawn (draw_slides.py), its nuclei are predicted by the bundled model, and places to look at are suggested.
Chromium shows them: classes over the slide; annotations that are drawn by mouse, in dark colours; probabilities and the
list of places. Three WebP files of 1366 x 768 pixels are written.
"""

import argparse
import io
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from draw_slides import draw
from PIL import Image

import tilesegment
from tilesegment.viewer import Server, open_scene

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
DRAWN = """() => {
    const items = [...window.app?.items?.values() ?? []];
    return document.documentElement.dataset.ready && items.every((one) => one.getFullyLoaded());
}"""
SETTLED = 1500  # ms after the last change: what is loading is drawn


def prepare(folder: Path, size: int) -> None:
    """Write slide.svs, mask.zarr and probabilities.zarr, and the places of places.geojson."""
    draw(folder / "slide.svs", size)
    kept = {"probabilities": folder / "probabilities.zarr"}
    tilesegment.predict(folder / "slide.svs", folder / "mask.zarr", "nuclei-he", **kept)
    suggest = [sys.executable, "-m", "tilesegment_cli.main", "suggest", folder / "mask.zarr", "--count", "9"]
    out = folder / "places.geojson"
    subprocess.run([*suggest, "--probabilities", kept["probabilities"], "--out", out], check=True)


def show_classes(page: Any) -> None:
    """Classes over the slide."""
    look_at(page, 1010, 1040, 900)


def draw_annotations(page: Any) -> None:
    """A stroke, a polygon and a box, one of them selected."""
    look_at(page, 700, 900, 420)
    page.get_by_role("button", name="Freehand").click()
    turn = [2 * math.pi * n / 48 for n in range(49)]
    drag(page, [(700 + 38 * math.sin(at), 905 + (62 + 9 * math.sin(3 * at)) * math.cos(at)) for at in turn])
    page.keyboard.press("2")
    page.get_by_role("button", name="Box").click()
    drag(page, [(640, 1010), (680, 1060)])
    page.get_by_role("button", name="Polygon").click()
    for y, x in ((655, 760), (642, 815), (690, 806), (704, 768)):
        page.mouse.click(*on_screen(page, y, x))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Select", exact=True).click()
    page.mouse.click(*on_screen(page, 672, 788))


def show_places(page: Any) -> None:
    """The first place, and how probable each pixel is."""
    page.get_by_role("checkbox", name="mask.zarr").first.uncheck()
    page.get_by_role("button", name="Next", exact=False).last.click()
    page.get_by_role("button", name="1:", exact=False).first.scroll_into_view_if_needed()


def look_at(page: Any, y: float, x: float, pixels: float) -> None:
    """Show `pixels` pixels of the image across."""
    page.evaluate(
        "([y, x, w]) => app.showRegion({y0: y - w / 4, x0: x - w / 2, y1: y + w / 4, x1: x + w / 2}, true)",
        [y, x, pixels],
    )
    page.wait_for_function(DRAWN)


def on_screen(page: Any, y: float, x: float) -> tuple[float, float]:
    """Return where a pixel of the image is on the screen, (x, y)."""
    box = page.locator("#viewer").bounding_box()
    found = page.evaluate("([y, x]) => app.toScreen({y, x})", [y, x])
    return box["x"] + found["x"], box["y"] + found["y"]


def drag(page: Any, places: list[tuple[float, float]]) -> None:
    """Drag the mouse through pixels (y, x) of the image."""
    page.mouse.move(*on_screen(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*on_screen(page, *place))
    page.mouse.up()


@contextmanager
def opened(program: Any, url: str, scheme: str) -> Iterator[Any]:
    """Open the page in light or dark colours."""
    profile = program.new_context(viewport={"width": 1366, "height": 768}, color_scheme=scheme)
    try:
        page = profile.new_page()
        page.goto(url)
        page.wait_for_function(DRAWN)
        yield page
    finally:
        profile.close()


def take(page: Any, path: Path) -> None:
    """Write what is shown as a WebP."""
    page.wait_for_timeout(SETTLED)
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, "WEBP", quality=80, method=6)
    print(path)


def main() -> None:
    """Read the command line and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the pictures")
    parser.add_argument("--size", type=int, default=2048, help="side of the slide, pixels")
    given = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is missing: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    pictures: dict[str, tuple[Callable[[Any], None], str]] = {
        "view-classes": (show_classes, "light"),
        "view-annotate": (draw_annotations, "dark"),
        "view-places": (show_places, "light"),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, given.size)
        masks = [folder / "mask.zarr", folder / "probabilities.zarr"]
        more = {"annotate": folder / "labels.geojson", "places": folder / "places.geojson"}
        with (
            open_scene(folder / "slide.svs", masks, **more) as scene,
            Server(scene) as server,
            sync_playwright() as playwright,
            playwright.chromium.launch(executable_path=chromium, args=FLAGS) as program,
        ):
            for stem, (act, scheme) in pictures.items():
                with opened(program, server.url, scheme) as page:
                    act(page)
                    take(page, given.out / f"{stem}.webp")


if __name__ == "__main__":
    main()
