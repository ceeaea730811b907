"""The list of places in the page: over HTTP, and in a real browser by mouse and keyboard."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import tifffile
from page_browser import Watched, chromium, needs_browser, watched_page

from tilesegment import DataError, Region
from tilesegment.errors import ViewError
from tilesegment.prediction.places import Place, write_places
from tilesegment.viewer import Server, open_scene

PLACES = (
    Place(1, 0.75, Region(100, 200, 150, 260), None, ("<b>cell</b>", "gap")),
    Place(2, 0.5, Region(600, 700, 664, 764), None, ("gap", "rim")),
    Place(3, 0.25, Region(10, 900, 40, 930), None, ("gap", "rim")),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("places")
    pixels = np.random.default_rng(0).integers(0, 200, (800, 1000), np.uint8)
    tifffile.imwrite(folder / "image.tif", pixels, tile=(256, 256))
    write_places(folder / "places.geojson", PLACES, "entropy")
    return folder / "image.tif", folder / "places.geojson"


@pytest.fixture(scope="module")
def server(files: tuple[Path, Path]) -> Iterator[Server]:
    with open_scene(files[0], places=files[1]) as scene, Server(scene) as serving:
        yield serving


def test_they_are_sent_as_they_were_written(server: Server) -> None:
    sent = json.load(urlopen(server.url + "places"))
    assert (sent["name"], sent["places"]) == ("places.geojson", [one.as_json() for one in PLACES])
    assert json.load(urlopen(server.url + "scene.json"))["places"] is True


def test_without_any_there_are_none(files: tuple[Path, Path]) -> None:
    with open_scene(files[0]) as scene, Server(scene) as bare:
        assert json.load(urlopen(bare.url + "scene.json"))["places"] is False
        with pytest.raises(HTTPError) as refused, urlopen(bare.url + "places"):
            pass
        refused.value.close()
        assert refused.value.code == 404


def test_those_of_another_image_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((300, 300), np.uint8))
    with pytest.raises(ViewError, match=r"place 2 at 600:664,700:764 lies outside the image, 300 x 300"):
        open_scene(tmp_path / "small.tif", places=files[1])
    (tmp_path / "none.geojson").write_text("{}")
    with pytest.raises(DataError, match="holds no places"):
        open_scene(files[0], places=tmp_path / "none.geojson")
    many = [Place(n, 0.5, Region(n % 700, 0, n % 700 + 9, 9), None, ("a", "b")) for n in range(1, 2002)]
    write_places(tmp_path / "many.geojson", many, "entropy")
    with pytest.raises(ViewError, match="2,001 places"):
        open_scene(files[0], places=tmp_path / "many.geojson")


def middle(watched: Watched) -> tuple[float, float]:
    """The pixel of the image in the middle of the view, (y, x), once it is at rest."""
    watched.wait_until_drawn()
    watched.page.wait_for_function("() => !app.osd.isAnimating || !app.osd.isAnimating()")
    found = watched.page.evaluate(
        "() => { const p = app.items.get(0).viewportToImageCoordinates(app.osd.viewport.getCenter(false));"
        " return [p.y, p.x]; }"
    )
    return found[0], found[1]


@needs_browser
def test_one_steps_through_them_and_ticks_are_kept(server: Server) -> None:
    with chromium() as program, watched_page(program, server.url) as watched:
        page = watched.page
        page.wait_for_selector("#places li")
        # names are text, whatever they hold
        assert page.locator("#places button").first.inner_text() == "1: <b>cell</b> / gap · 0.750"
        page.keyboard.press("n")
        assert middle(watched) == pytest.approx((125, 230), abs=0.6)
        page.keyboard.press("n")
        assert middle(watched) == pytest.approx((632, 732), abs=0.6)
        assert page.locator("#places button[aria-current]").inner_text().startswith("2:")
        _check_frame(watched, PLACES[1].region)
        page.keyboard.press("p")
        page.keyboard.press("p")  # from the first to the last
        assert page.locator("#places button[aria-current]").inner_text().startswith("3:")
        page.get_by_role("button", name="2: gap").click()
        page.get_by_label("Place 2 is done").check()
        assert page.get_by_text("1 of 3 done").is_visible()
        assert watched.serious_barriers() == []
        watched.open(server.url)
        page.wait_for_selector("#places li")
        assert page.get_by_label("Place 2 is done").is_checked()
        assert not page.get_by_label("Place 1 is done").is_checked()


def _check_frame(watched: Watched, region: Region) -> None:
    """Check that the frame on the screen lies around a place, and is in the picture of the view."""
    watched.page.wait_for_timeout(400)  # springs
    box = watched.page.locator("#place-frame").bounding_box()
    (x0, y0), (x1, y1) = watched.to_screen(region.y0, region.x0), watched.to_screen(region.y1, region.x1)
    assert [box["x"], box["y"]] == pytest.approx([x0, y0], abs=1.5)
    assert [box["width"], box["height"]] == pytest.approx([x1 - x0, y1 - y0], abs=1.5)
