"""The page in a real browser: it shows what the files hold, by mouse and by keyboard, on any screen, to everyone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from page_browser import Watched, chromium, needs_browser, watched_page

from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass
from tilesegment.viewer import Server, open_scene

pytestmark = needs_browser

SHAPE = (700, 1100)
CLASSES = (LabelClass("background", "#000000"), LabelClass("gland", "#ff0000"), LabelClass("<i>stroma</i>", "#00ff00"))
EVIL = "<img src=x onerror=alert(1)>.tif"


@dataclass(frozen=True)
class Drawn:
    """Files that are shown, and what they hold: pixels (H, W, 3) uint8, class ids (H, W) uint8."""

    image: Path
    mask: Path
    pixels: np.ndarray
    ids: np.ndarray


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """An image whose name is markup, in which no pixel is like its neighbours, and a mask of three classes."""
    folder = tmp_path_factory.mktemp("page")
    ys, xs = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = np.stack([(ys * 7) % 251, (xs * 11) % 241, (ys * 3 + xs * 5) % 239], axis=-1).astype(np.uint8)
    tifffile.imwrite(folder / EVIL, pixels, tile=(256, 256), photometric="rgb", compression="zlib")
    ids = (((ys // 90) + (xs // 130)) % 3).astype(np.uint8)
    writer = create_mask(folder / "mask.zarr", MaskSpec(SHAPE, None, 256, 128, CLASSES, None))
    for region in Region.of_shape(SHAPE).squares(256):
        writer.write(region, ids[region.slices])
    writer.finish()
    return Drawn(folder / EVIL, folder / "mask.zarr", pixels, ids)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(drawn: Drawn) -> Iterator[str]:
    """Of a viewer of the image and the mask."""
    with open_scene(drawn.image, [drawn.mask]) as scene, Server(scene) as server:
        yield server.url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Watched]:
    """The page, freshly opened; in the end nothing may have been complained of."""
    with watched_page(browser, url) as opened:
        yield opened


def hide_mask(page: Watched) -> None:
    page.page.evaluate("() => app.items.get(1).setOpacity(0)")


def test_the_image_is_drawn_as_it_is_stored(page: Watched, drawn: Drawn) -> None:
    """At 16 screen pixels per pixel every pixel has its own colour: nothing is smoothed, moved or recoloured."""
    hide_mask(page)
    for y, x in ((3, 5), (511, 512), (699, 1099), (350, 600)):
        page.zoom_to(y + 0.5, x + 0.5, 60)
        page.check_colour(y, x, drawn.pixels[y, x].tolist())


def test_the_mouse_pans_and_zooms(page: Watched) -> None:
    view = page.page.locator("#viewer").bounding_box()
    middle = view["x"] + view["width"] / 2, view["y"] + view["height"] / 2
    before = page.page.evaluate("() => app.scale()")
    page.page.mouse.move(*middle)
    for _ in range(3):
        page.page.mouse.wheel(0, -200)
    page.page.wait_for_function("before => app.scale() > 1.5 * before", arg=before)
    start = page.page.evaluate("() => app.toPixel({x: 300, y: 300})")
    page.page.mouse.down()
    page.page.mouse.move(middle[0] - 80, middle[1] - 40, steps=5)
    page.page.mouse.up()
    page.page.wait_for_function("x => app.toPixel({x: 300, y: 300}).x > x + 5", arg=start["x"])


def test_coordinates_and_values_under_the_cursor_are_those_of_the_files(page: Watched, drawn: Drawn) -> None:
    for y, x in ((123, 456), (640, 1000)):
        page.zoom_to(y, x, 100)
        page.page.mouse.move(*page.to_screen(y + 0.5, x + 0.5))
        page.page.wait_for_function(
            "place => document.querySelector('#where').textContent.startsWith(place)", arg=f"y {y}, x {x}"
        )
        wanted = [str(one) for one in drawn.pixels[y, x]] + [CLASSES[drawn.ids[y, x]].name]
        page.page.wait_for_function(
            "wanted => { const text = document.querySelector('#values').textContent;"
            " return wanted.every(one => text.includes(one)); }",
            arg=wanted,
        )


def test_a_class_is_switched_off_and_on(page: Watched, drawn: Drawn) -> None:
    """The pixel of a class that is off is the image's."""
    y, x = next((y, x) for y, x in zip(*np.nonzero(drawn.ids == 1), strict=True) if y > 40 and x > 40)
    page.page.evaluate("() => app.items.get(1).setOpacity(1)")
    page.zoom_to(y + 0.5, x + 0.5, 60)
    page.check_colour(y, x, (255, 0, 0))
    switch = page.page.get_by_role("checkbox", name=re.compile("gland"))
    switch.uncheck()
    page.check_colour(y, x, drawn.pixels[y, x].tolist())
    switch.check()
    page.check_colour(y, x, (255, 0, 0))


def test_names_of_files_and_classes_are_text(page: Watched) -> None:
    """Markup in them is shown, not obeyed: there is no such image, and no script ran."""
    assert page.page.locator("#name").inner_text() == EVIL
    assert page.page.locator("img[src='x']").count() == 0
    assert page.page.get_by_text("<i>stroma</i>").count() > 0


def test_a_link_leads_to_the_place(page: Watched, browser: Any) -> None:
    page.zoom_to(200, 300, 120)
    page.page.wait_for_timeout(500)
    with watched_page(browser, page.page.evaluate("() => app.link()")) as other:
        middle = other.page.evaluate(
            "() => app.toPixel({x: app.osd.element.clientWidth / 2, y: app.osd.element.clientHeight / 2})"
        )
    assert (middle["y"], middle["x"]) == (pytest.approx(200, abs=1), pytest.approx(300, abs=1))


def test_by_keyboard_alone(page: Watched) -> None:
    """Every control is reached by Tab, and the keys of the help zoom and move."""
    controls = page.page.locator("button:visible, input:visible, select:visible, summary:visible").count()
    seen = set()
    for _ in range(controls + 10):
        page.page.keyboard.press("Tab")
        seen.add(page.page.evaluate("() => [...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(seen) >= controls
    before = page.page.evaluate("() => app.scale()")
    page.page.keyboard.press("+")
    page.page.wait_for_function("before => app.scale() > before", arg=before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_from_using_it(browser: Any, url: str, scheme: str) -> None:
    with watched_page(browser, url, color_scheme=scheme) as opened:
        assert opened.serious_barriers() == []


@pytest.mark.parametrize(
    ("size", "ratio"), [((1366, 768), 1), ((683, 384), 2), ((400, 700), 1)], ids=["laptop", "at 200 %", "narrow"]
)
def test_it_fits_the_screen(browser: Any, url: str, size: tuple[int, int], ratio: int) -> None:
    """A laptop at 200 % has 683 x 384 pixels: nothing needs scrolling sideways, and the image keeps a third of it."""
    with watched_page(browser, url, size, device_scale_factor=ratio) as opened:
        width, shown = opened.page.evaluate(
            "() => [document.documentElement.scrollWidth, document.querySelector('#viewer').getBoundingClientRect()]"
        )
        assert width <= size[0]
        assert shown["width"] * shown["height"] > size[0] * size[1] / 3
        page_bottom = opened.page.evaluate("() => document.querySelector('footer').getBoundingClientRect().bottom")
        assert page_bottom <= size[1] + 1
