"""Layers and objects on the page, in a real browser: what is switched, drawn and found is what the files hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from page_browser import Watched, chromium, needs_browser, watched_page
from scipy.ndimage import minimum_filter

from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass
from tilesegment.objects.find import find_objects
from tilesegment.viewer import Server, open_scene

pytestmark = [needs_browser, pytest.mark.slow]

SHAPE = (600, 800)
CLASSES = (LabelClass("background", "#000000"), LabelClass("gland", "#ff0000"), LabelClass("<b>duct</b>", "#0000ff"))
OPAQUE = "() => { for (const input of document.querySelectorAll('.layer input[type=range]')) if (input.step === '0.05')"
OPAQUE += " { input.value = 1; input.dispatchEvent(new Event('input')); } }"


@dataclass(frozen=True)
class Files:
    """What is shown: class ids and truth (H, W) uint8, the ids of objects (H, W)."""

    folder: Path
    ids: np.ndarray
    true: np.ndarray


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("layers")
    tifffile.imwrite(folder / "image.tif", np.full((*SHAPE, 3), 200, np.uint8), photometric="rgb", tile=(256, 256))
    ids, ys, xs = np.zeros(SHAPE, np.uint8), *np.mgrid[: SHAPE[0], : SHAPE[1]]
    for n, (y, x, radius) in enumerate([(150, 150, 60), (150, 400, 70), (400, 300, 90), (420, 600, 50)]):
        ids[(ys - y) ** 2 + (xs - x) ** 2 < radius**2] = 1 + n % 2
    writer = create_mask(folder / "mask.zarr", MaskSpec(SHAPE, None, 256, 128, CLASSES, None))
    for region in Region.of_shape(SHAPE).squares(256):
        writer.write(region, ids[region.slices], 0)
    writer.finish()
    true = np.roll(ids, 20, axis=1)
    tifffile.imwrite(folder / "truth.tif", true)
    find_objects(folder / "mask.zarr", folder / "cells.geojson")
    return Files(folder, ids, true)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Any, files: Files, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """The page of the files named by the test, and perhaps the truth."""
    names, truth = request.param
    masks = [files.folder / name for name in names]
    true = files.folder / "truth.tif" if truth else None
    image = files.folder / "image.tif"
    with (
        open_scene(image, masks, truth=true) as scene,
        Server(scene) as server,
        watched_page(browser, server.url) as watched,
    ):
        yield watched


def colours_of(ids: np.ndarray) -> np.ndarray:
    """The colours in which classes are drawn where they are opaque, background being the image."""
    return np.array([(200, 200, 200), (255, 0, 0), (0, 0, 255)])[ids]


def places(ids: np.ndarray, seed: int = 0) -> list[tuple[int, int]]:
    """Some pixels of each value, none near others: on the screen pixels are not whole."""
    rng = np.random.default_rng(seed)
    return [tuple(rng.choice(inner(ids == value)).tolist()) for value in np.unique(ids) for _ in range(2)]


def inner(where: np.ndarray) -> np.ndarray:
    """Pixels (n, 2) that are surrounded by such."""
    return np.argwhere(minimum_filter(where, 9))


@pytest.mark.parametrize("page", [(["mask.zarr"], False)], indirect=True)
def test_classes_are_switched_and_outlined(page: Watched, files: Files) -> None:
    page.page.evaluate(OPAQUE)
    for y, x in places(files.ids):
        page.check_colour(y, x, colours_of(files.ids)[y, x])
    page.page.get_by_role("checkbox", name="<b>duct</b>").uncheck()
    for y, x in places(files.ids):
        page.check_colour(y, x, colours_of(np.where(files.ids == 2, 0, files.ids))[y, x])
    page.page.get_by_label("Drawn").select_option("outline")
    page.zoom_to(150, 150, 200)
    left = int(np.argmax(files.ids[150] == 1))
    page.check_colour(150, left, (255, 0, 0))
    page.check_colour(150, left + 3, (200, 200, 200))
    # the link shows the same again
    page.page.wait_for_timeout(400)
    page.page.reload()
    page.wait_until_drawn()
    assert not page.page.get_by_role("checkbox", name="<b>duct</b>").is_checked()
    assert page.page.get_by_label("Drawn").input_value() == "outline"
    page.check_colour(150, left, (255, 0, 0))
    assert page.page.locator(".layer b").count() == 0


@pytest.mark.parametrize("page", [(["mask.zarr"], True)], indirect=True)
def test_truth_against_prediction_side_by_side(page: Watched, files: Files) -> None:
    page.page.evaluate(OPAQUE)
    right, missed, made_up = (0, 158, 115), (213, 94, 0), (86, 180, 233)
    both, only_true = (files.ids > 0) & (files.true > 0), (files.ids == 0) & (files.true > 0)
    for where, colour in ((both, right), (only_true, missed), ((files.ids > 0) & (files.true == 0), made_up)):
        y, x = inner(where)[-1].tolist()
        page.check_colour(y, x, colour)
    page.page.get_by_label("Side by side with").select_option(label="mask.zarr")
    page.page.wait_for_selector("#second canvas")
    page.zoom_to(150, 400, 300)
    page.page.wait_for_timeout(500)
    centres = page.page.evaluate(
        "() => { const second = document.getElementById('second');"
        " return [app.osd.element.clientWidth, second.clientWidth]; }"
    )
    assert abs(centres[0] - centres[1]) < 8
    assert not page.serious_barriers()
    page.page.keyboard.press("b")
    page.page.wait_for_timeout(1000)
    assert page.page.get_by_label("Blink").is_checked()
    page.page.keyboard.press("b")


@pytest.mark.parametrize("page", [(["mask.zarr", "cells.geojson"], False)], indirect=True)
def test_objects_under_the_cursor(page: Watched, files: Files) -> None:
    page.zoom_to(150, 400, 400)
    y, x = 150, 400
    page.page.mouse.move(*page.to_screen(y, x))
    card = page.page.locator("#object-card")
    card.wait_for(state="visible")
    area = int((files.ids == 2)[:, :500].sum())
    assert f"{area:,} px" in card.inner_text() and "<b>duct</b>" in card.inner_text()
    assert page.page.locator("#object-card b").count() == 0
    # outlines lie on a canvas of their own
    drawn = page.page.evaluate(
        "() => { const canvas = document.getElementById('objects');"
        " const found = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        " return found.some((value, n) => n % 4 === 3 && value > 0); }"
    )
    assert drawn
    page.page.evaluate("() => app.on('object', (object) => { window.chosen = object; })")
    page.page.mouse.click(*page.to_screen(y, x))
    chosen = page.page.wait_for_function("() => window.chosen").json_value()
    assert chosen["name"] == "<b>duct</b>" and chosen["geometry"]["type"] == "Polygon"
    page.page.mouse.move(*page.to_screen(300, 560))
    card.wait_for(state="hidden")


@pytest.mark.parametrize("page", [(["mask.zarr"], False)], indirect=True)
def test_a_region_of_a_mask_is_chosen_by_the_keyboard(page: Watched, files: Files) -> None:
    page.zoom_to(400, 300, 400)
    page.page.evaluate("() => app.on('object', (object) => { window.chosen = object; })")
    page.page.locator("body").press("o")
    chosen = page.page.wait_for_function("() => window.chosen").json_value()
    assert chosen["name"] == "gland"
    xs = [point[0] for point in chosen["geometry"]["coordinates"][0]]
    assert (min(xs), max(xs)) == (211, 390)
    assert page.page.locator("#object-card").inner_text().splitlines()[0].startswith("gland")
