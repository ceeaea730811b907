"""Drawing on the page in a real browser: what is drawn by mouse lies in the file, position by position."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from page_browser import Watched, chromium, needs_browser, watched_page

from tilesegment.viewer import Server, open_scene

pytestmark = needs_browser

SIDE = 400
CORNERS = [(100, 120), (100, 160), (130, 170), (140, 110)]  # (y, x), corners of pixels


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@dataclass(frozen=True)
class Drawing:
    """A page to draw on, and the file that it stores."""

    page: Watched
    file: Path
    url: str

    def features(self) -> list[dict[str, Any]]:
        """What lies in the file; none before it is stored."""
        return json.loads(self.file.read_text())["features"] if self.file.exists() else []

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many annotations lie in the file."""
        for _ in range(100):
            if len(found := self.features()) == count:
                return found
            self.page.page.wait_for_timeout(50)
        raise AssertionError(f"{len(self.features())} annotations are stored, not {count}")

    def click(self, y: float, x: float) -> None:
        self.page.page.mouse.click(*self.page.to_screen(y, x))

    def drag(self, *places: tuple[float, float]) -> None:
        self.page.page.mouse.move(*self.page.to_screen(*places[0]))
        self.page.page.mouse.down()
        for place in places[1:]:
            self.page.page.mouse.move(*self.page.to_screen(*place), steps=6)
        self.page.page.mouse.up()


@pytest.fixture
def drawing(browser: Any, tmp_path: Path) -> Iterator[Drawing]:
    """An image that is opened to be drawn on, in vertices on corners of pixels."""
    image, labels = tmp_path / "slide.tif", tmp_path / "labels.geojson"
    tifffile.imwrite(image, np.full((SIDE, SIDE, 3), 230, np.uint8), photometric="rgb")
    with (
        open_scene(image, annotate=labels) as scene,
        Server(scene) as server,
        watched_page(browser, server.url) as page,
    ):
        page.page.get_by_role("checkbox", name="Vertices on corners of pixels").check()
        page.zoom_to(130, 150, 200)
        yield Drawing(page, labels, server.url)


def draw_polygon(drawing: Drawing) -> None:
    drawing.page.page.get_by_role("button", name="Polygon").click()
    for y, x in CORNERS:
        drawing.click(y, x)
    drawing.page.page.keyboard.press("Enter")


def ring_of(feature: dict[str, Any]) -> list[tuple[float, float]]:
    """The corners of a polygon without holes, (y, x)."""
    (ring,) = feature["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    return [(y, x) for x, y in ring[:-1]]


def test_a_polygon_lies_in_the_file_exactly_and_is_there_again(drawing: Drawing, browser: Any) -> None:
    draw_polygon(drawing)
    (feature,) = drawing.wait_for(1)
    ring = ring_of(feature)
    start = ring.index(CORNERS[0])
    turned = ring[start:] + ring[:start]
    assert turned in (CORNERS, [CORNERS[0], *CORNERS[:0:-1]])  # in either direction
    assert feature["properties"]["classification"]["name"] == "class 1"
    drawing.page.page.reload()
    drawing.page.wait_until_drawn()
    drawing.page.page.wait_for_function("() => app.annotator?.drawing.entries.size === 1")


def test_box_freehand_point_eraser_and_undo(drawing: Drawing) -> None:
    page = drawing.page.page
    page.get_by_role("button", name="Box").click()
    drawing.drag((100, 100), (120, 130))
    (box,) = drawing.wait_for(1)
    assert sorted(ring_of(box)) == [(100, 100), (100, 130), (120, 100), (120, 130)]
    page.get_by_role("button", name="Freehand").click()
    drawing.drag((150, 150), (150, 190), (170, 190), (170, 150))
    assert drawing.wait_for(2)[1]["geometry"]["type"] == "Polygon"
    page.get_by_role("button", name="Point").click()
    drawing.click(110, 200)
    assert drawing.wait_for(3)[2]["geometry"]["coordinates"] == [200, 110]
    page.get_by_role("button", name="Eraser").click()
    drawing.drag((90, 115), (90, 140), (130, 140), (130, 115))
    page.wait_for_function("() => app.annotator.file.isDirty === false")
    for _ in range(100):
        left = [one for one in drawing.features() if one["geometry"]["type"] == "Polygon"]
        if max(x for _, x in ring_of(left[0])) == 115:
            break
        page.wait_for_timeout(50)
    assert sorted(ring_of(left[0])) == [(100, 100), (100, 115), (120, 100), (120, 115)]
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert sorted(ring_of(drawing.wait_for(2)[0])) == [(100, 100), (100, 130), (120, 100), (120, 130)]


def test_the_second_of_two_browsers_is_told_and_loses_nothing(drawing: Drawing, browser: Any) -> None:
    profile = browser.new_context(viewport={"width": 1366, "height": 768})
    try:
        other = Drawing(Watched(profile.new_page()), drawing.file, drawing.url)
        other.page.open(drawing.url)
        other.page.zoom_to(130, 150, 200)
        draw_polygon(drawing)
        drawing.wait_for(1)
        other.page.page.get_by_role("button", name="Box").click()
        other.drag((160, 100), (180, 130))
        other.page.page.get_by_role("alert").filter(has_text="changed by another").wait_for()
        assert len(drawing.features()) == 1
        other.page.page.get_by_role("button", name="Load, and add what I drew").click()
        assert len(drawing.wait_for(2)) == 2
    finally:
        profile.close()


def test_nothing_keeps_people_from_drawing(drawing: Drawing) -> None:
    assert drawing.page.serious_barriers() == []
