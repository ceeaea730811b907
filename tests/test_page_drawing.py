"""Drawing in a real browser, tool by tool: pixels that are covered, corrections, classes, planes, files of QuPath."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from page_browser import Watched, chromium, needs_browser, watched_page

from tilesegment.geometry import Region
from tilesegment.labels.outlines import read_outlines
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass
from tilesegment.viewer import Server, open_scene

pytestmark = needs_browser

SHAPE = (400, 600)
Place = tuple[float, float]  # (y, x), pixels of the image
Json = dict[str, Any]


@dataclass
class Drawer:
    """A hand on the mouse, over a page that draws in `file`."""

    watched: Watched
    file: Path

    @property
    def page(self) -> Any:
        return self.watched.page

    def features(self) -> list[Json]:
        """What lies in the file, once all is stored."""
        self.page.wait_for_function("() => !app.annotator.file.isDirty && !app.annotator.file.isSaving")
        return json.loads(self.file.read_bytes())["features"] if self.file.exists() else []

    def key(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def click(self, *places: Place) -> None:
        for place in places:
            self.page.mouse.click(*self.watched.to_screen(*place))

    def drag(self, first: Place, *others: Place) -> None:
        self.page.mouse.move(*self.watched.to_screen(*first))
        self.page.mouse.down()
        for place in others:
            self.page.mouse.move(*self.watched.to_screen(*place), steps=3)
        self.page.mouse.up()

    def geometry(self) -> Json:
        """The geometry that was drawn last."""
        return self.features()[-1]["geometry"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and a stack."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(3).integers(0, 255, (3, *SHAPE), np.uint8)
    tifffile.imwrite(folder / "image.tif", pixels[0])
    tifffile.imwrite(folder / "stack.tif", pixels, metadata={"axes": "ZYX"}, ome=True)
    return folder


Opener = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, images: Path, tmp_path: Path) -> Opener:
    """Opens the page on an image and a file of annotations, zoomed to 8 pixels of the screen per pixel."""

    @contextmanager
    def open_page(document: object = None, image: str = "image.tif", **options: Any) -> Iterator[Drawer]:
        file = tmp_path / "labels.geojson"
        if document is not None:
            file.write_text(json.dumps(document))
        with (
            open_scene(images / image, annotate=file) as scene,
            Server(scene) as server,
            watched_page(browser, server.url, **options) as watched,
        ):
            watched.page.wait_for_function("() => document.documentElement.dataset.ready")
            watched.zoom_to(100, 150, 130)
            yield Drawer(watched, file)

    return open_page


@pytest.fixture
def drawer(opened: Opener) -> Iterator[Drawer]:
    with opened() as drawer:
        yield drawer


def ring(geometry: Json) -> list[Place]:
    """The outline of a polygon as (y, x), not closed."""
    return [(y, x) for x, y in geometry["coordinates"][0][:-1]]


def near(found: Sequence[Place], wanted: Sequence[Place], within: float = 0.01) -> bool:
    return len(found) == len(wanted) and np.allclose(found, wanted, rtol=0, atol=within)


def covered(file: Path) -> np.ndarray:
    """The pixels that lie in the areas of a file."""
    return read_outlines(file).rasterise(Region(0, 0, *SHAPE))[0] > 0


@pytest.mark.slow
def test_a_box_covers_exactly_its_pixels(drawer: Drawer) -> None:
    drawer.key("r")
    drawer.drag((90.2, 139.8), (105.1, 160.4))  # corners of pixels are met within half a pixel
    assert sorted(ring(drawer.geometry())) == [(90, 140), (90, 160), (105, 140), (105, 160)]
    wanted = np.zeros(SHAPE, bool)
    wanted[90:105, 140:160] = True
    assert np.array_equal(covered(drawer.file), wanted)
    feature = drawer.features()[0]
    assert feature["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "class 1", "color": [213, 94, 0]},
    }
    assert len(feature["id"]) == 36


@pytest.mark.slow
def test_a_polygon_has_the_corners_that_were_clicked(drawer: Drawer) -> None:
    corners = [(80.0, 130.0), (82.5, 165.25), (110.0, 150.0)]
    drawer.key("2", "a")
    drawer.click(*corners, corners[0])
    assert near(ring(drawer.geometry()), corners)
    drawer.click(*corners, (115, 140))
    drawer.key("Backspace", "Enter")  # without the last corner
    assert near(ring(drawer.geometry()), corners)
    assert [one["properties"]["classification"]["name"] for one in drawer.features()] == ["class 2"] * 2
    assert drawer.page.evaluate("() => [...app.annotator.drawing.entries.values()][0].feature") == drawer.features()[0]


@pytest.mark.slow
def test_a_second_click_on_a_corner_ends_a_polygon_and_escape_drops_it(drawer: Drawer) -> None:
    drawer.key("a")
    drawer.click((80, 130), (80, 160), (110, 150), (110, 150))
    assert near(ring(drawer.geometry()), [(80, 130), (80, 160), (110, 150)])
    drawer.click((80, 130), (80, 160), (110, 150))
    drawer.key("Escape", "Enter")
    assert len(drawer.features()) == 1


@pytest.mark.slow
def test_vertices_lie_on_corners_of_pixels_if_asked(drawer: Drawer) -> None:
    drawer.page.get_by_label("Vertices on corners of pixels").check()
    drawer.key("a")
    drawer.click((80.3, 130.4), (79.8, 160.1), (110.2, 149.7), (80, 130))
    assert ring(drawer.geometry()) == [(80, 130), (80, 160), (110, 150)]


@pytest.mark.slow
def test_freehand_follows_the_hand(drawer: Drawer) -> None:
    circle = [(100 + 15 * math.sin(n / 8), 150 + 15 * math.cos(n / 8)) for n in range(0, 50, 2)]
    drawer.key("f")
    drawer.drag(*circle)
    assert len(drawer.features()) == 1
    area = covered(drawer.file)
    ys, xs = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    assert np.count_nonzero(area != (np.hypot(ys - 100, xs - 150) < 15)) < 0.03 * np.count_nonzero(area)


@pytest.mark.slow
def test_points_and_what_is_too_small(drawer: Drawer) -> None:
    drawer.key("d")
    drawer.click((91.25, 140.5))
    assert near([drawer.geometry()["coordinates"]], [(140.5, 91.25)])
    drawer.key("r")
    drawer.drag((100, 150), (100.1, 150.1))
    assert len(drawer.features()) == 1


@pytest.mark.slow
def test_the_eraser_takes_from_its_class_alone(drawer: Drawer) -> None:
    drawer.key("r")
    drawer.drag((90, 140), (110, 160))
    drawer.key("2")
    drawer.drag((90, 140), (110, 160))
    drawer.page.get_by_label("Vertices on corners of pixels").check()
    drawer.key("e")
    drawer.drag((85, 150), (85, 170), (115, 170), (115, 150))
    drawer.page.wait_for_function("() => app.annotator.drawing.done.length === 3")
    first, second = drawer.features()
    assert sorted(ring(first["geometry"])) == [(90, 140), (90, 160), (110, 140), (110, 160)]
    assert sorted(ring(second["geometry"])) == [(90, 140), (90, 150), (110, 140), (110, 150)]
    drawer.drag((85, 130), (85, 170), (115, 170), (115, 130))
    drawer.page.wait_for_function("() => app.annotator.drawing.entries.size === 1")
    assert drawer.features() == [first]


@pytest.mark.slow
def test_steps_are_undone_and_done_again(drawer: Drawer) -> None:
    drawer.key("r")
    drawer.drag((90, 140), (95, 150))
    drawer.drag((100, 140), (105, 150))
    both = drawer.features()
    drawer.key("Control+z")
    assert drawer.features() == both[:1]
    drawer.key("Control+z", "Control+z")
    assert drawer.features() == []
    drawer.key("Control+Shift+z", "Control+y")
    assert drawer.features() == both


def test_annotations_are_corrected(drawer: Drawer) -> None:
    drawer.key("r")
    drawer.drag((90, 140), (110, 160))
    drawer.key("q")
    drawer.click((95, 145))
    drawer.drag((90, 160), (85, 165))
    assert near(sorted(ring(drawer.geometry())), [(85, 165), (90, 140), (110, 140), (110, 160)])
    drawer.drag((110, 150), (115, 150))  # the middle of an edge becomes a vertex
    assert near(sorted(ring(drawer.geometry())), [(85, 165), (90, 140), (110, 140), (110, 160), (115, 150)])
    drawer.page.mouse.move(*drawer.watched.to_screen(115, 150))
    drawer.key("Delete")  # the vertex under the cursor
    drawer.drag((100, 150), (103, 152))  # all of it
    assert near(sorted(ring(drawer.geometry())), [(88, 167), (93, 142), (113, 142), (113, 162)])
    drawer.key("2")
    assert drawer.features()[0]["properties"]["classification"]["name"] == "class 2"
    drawer.key("Delete")
    assert drawer.features() == []


@pytest.mark.slow
def test_classes_of_ones_own(drawer: Drawer) -> None:
    drawer.key("r")
    drawer.drag((90, 140), (110, 160))
    name = drawer.page.get_by_label("Name of class 1")
    name.fill("<b>tumour</b>")
    name.press("Enter")
    drawer.page.get_by_label("Colour of <b>tumour</b>").fill("#0a0b0c")
    drawer.page.get_by_role("button", name="Add class").click()
    classification = {"name": "<b>tumour</b>", "color": [10, 11, 12]}
    assert drawer.features()[0]["properties"]["classification"] == classification
    stated = json.loads(drawer.file.read_bytes())["tilesegment"]["classes"]
    assert [one["name"] for one in stated] == ["<b>tumour</b>", "class 2", "class 3"]
    drawer.page.get_by_role("button", name="Remove <b>tumour</b>").click()  # something is drawn in it
    assert drawer.page.get_by_label("Name of <b>tumour</b>").count() == 1
    drawer.page.get_by_role("button", name="Remove class 3").click()
    drawer.key("Control+z", "Control+z", "Control+z", "Control+z")
    assert drawer.features()[0]["properties"]["classification"]["name"] == "class 1"


def from_qupath() -> Json:
    """What another program drew; of an ellipse QuPath says so beside its outline."""
    square = [[140, 90], [160, 90], [160, 110], [140, 110], [140, 90]]
    hole = [[145, 95], [155, 95], [155, 105], [145, 105], [145, 95]]
    geometries: list[Json] = [
        {"type": "MultiPolygon", "coordinates": [[square, hole]], "isEllipse": True},
        {"type": "LineString", "coordinates": [[130, 80], [135, 85]]},
        {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 2]}]},
    ]
    properties = {"objectType": "annotation", "isLocked": True, "measurements": {"area": 1e300, "n": 9007199254740993}}
    features: list[Json] = [
        {"type": "Feature", "id": str(n), "geometry": one, "properties": properties} for n, one in enumerate(geometries)
    ]
    return {
        "type": "FeatureCollection",
        "features": [*features, {"type": "Feature", "geometry": None, "properties": {}}],
    }


def test_what_qupath_drew_is_kept_and_corrected(opened: Opener) -> None:
    with opened(from_qupath()) as drawer:
        drawer.click((92, 142))  # in the area
        drawer.drag((90, 140), (88, 138))
        features, before = drawer.features(), from_qupath()["features"]
        assert features[1:] == before[1:]
        assert "isEllipse" not in features[0]["geometry"]
        assert near([tuple(features[0]["geometry"]["coordinates"][0][0][0])], [(138, 88)])
        assert features[0]["geometry"]["coordinates"][0][1] == before[0]["geometry"]["coordinates"][0][1]
        assert features[0]["properties"]["isLocked"] is True
        drawer.click((100, 150))  # in its hole is nothing
        assert drawer.page.evaluate("() => app.annotator.state.selected") is None


@pytest.mark.slow
def test_each_plane_has_its_own(opened: Opener) -> None:
    with opened(image="stack.tif") as drawer:
        drawer.page.evaluate("() => app.setZ(2)")
        drawer.key("r")
        drawer.drag((90, 140), (110, 160))
        assert drawer.geometry()["plane"] == {"c": -1, "z": 2, "t": 0}
        drawer.page.evaluate("() => app.setZ(0)")
        drawer.key("q")
        drawer.click((100, 150))
        assert drawer.page.evaluate("() => app.annotator.state.selected") is None
        drawer.key("]")
        assert drawer.page.evaluate("() => app.z()") == 2


@pytest.mark.slow
def test_it_is_there_after_loading_again(drawer: Drawer) -> None:
    drawer.key("r")
    drawer.drag((90, 140), (110, 160))
    before = drawer.features()
    drawer.page.reload()
    drawer.page.wait_for_function("() => document.documentElement.dataset.ready === 'true'")
    drawer.page.wait_for_function("() => app.annotator.drawing.entries.size === 1")
    assert drawer.page.evaluate("() => [...app.annotator.drawing.entries.values()][0].feature") == before[0]
    drawer.key("]", "Delete")
    assert drawer.features() == []


@pytest.mark.slow
def test_the_second_browser_is_told_and_keeps_what_it_drew(browser: Any, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.geojson"
    with open_scene(images / "image.tif", annotate=file) as scene, Server(scene) as server:
        profiles = [browser.new_context() for _ in range(2)]
        drawers = [Drawer(Watched(profile.new_page()), file) for profile in profiles]
        for drawer in drawers:
            drawer.watched.open(server.url)
            drawer.page.wait_for_function("() => document.documentElement.dataset.ready")
            drawer.watched.zoom_to(100, 150, 130)
            drawer.key("r")
        first, second = drawers
        first.drag((90, 140), (95, 150))
        [one] = first.features()
        second.drag((100, 140), (105, 150))
        told = second.page.get_by_role("alert").filter(has_text="changed by another")
        told.wait_for()
        assert json.loads(file.read_bytes())["features"] == [one]
        second.page.get_by_role("button", name="Load, and add what I drew").click()
        second.page.wait_for_function("() => app.annotator.drawing.entries.size === 2")
        both = second.features()
        assert both[0] == one and sorted(ring(both[1]["geometry"]))[0] == (100, 140)
        assert not told.is_visible()
        first.page.get_by_role("alert").filter(has_text="changed by another").wait_for()  # told without drawing
        first.page.get_by_role("button", name="Load", exact=True).click()
        first.page.wait_for_function("() => app.annotator.drawing.entries.size === 2")
        for profile in profiles:
            profile.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_from_drawing(opened: Opener, scheme: str) -> None:
    with opened(from_qupath(), color_scheme=scheme) as drawer:
        drawer.click((92, 142))
        assert drawer.watched.serious_barriers() == []


def test_a_predicted_object_is_taken_over_and_corrected(browser: Any, images: Path, tmp_path: Path) -> None:
    ids = np.zeros(SHAPE, np.uint8)
    ids[90:110, 140:160] = 1
    ids[95:100, 145:150] = 0  # a hole
    classes = (LabelClass("background", "#000000"), LabelClass("gland", "#ff0080"))
    writer = create_mask(tmp_path / "mask.zarr", MaskSpec(SHAPE, None, 256, 128, classes, None))
    for region in Region.of_shape(SHAPE).squares(256):
        writer.write(region, ids[region.slices])
    writer.finish()
    file = tmp_path / "labels.geojson"
    with (
        open_scene(images / "image.tif", [tmp_path / "mask.zarr"], annotate=file) as scene,
        Server(scene) as server,
        watched_page(browser, server.url) as watched,
    ):
        watched.page.wait_for_function("() => document.documentElement.dataset.ready")
        watched.zoom_to(100, 150, 130)
        drawer = Drawer(watched, file)
        drawer.click((92, 142))
        drawer.page.get_by_role("button", name="Correct gland").click()
        [feature] = drawer.features()
        assert feature["properties"]["classification"] == {"name": "gland", "color": [255, 0, 128]}
        assert np.array_equal(covered(file), ids > 0)
        drawer.drag((90, 140), (86, 136))  # it is selected: its corner moves at once
        assert drawer.features() != [feature]
        assert covered(file)[88, 138] and not covered(file)[97, 147]
